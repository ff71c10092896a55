//! Gives the unikernel its linker script, its note and its tool definitions.

#[path = "build/image.rs"]
mod image;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The executor is what people know, so the image bears its name.
    image::prepare("unikraft_tool_executor", &[], unikraft_tool_executor::manifest_json())
}
