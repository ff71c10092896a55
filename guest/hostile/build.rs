//! Gives the hostile guest the parts every image has. It claims the tools of the real one, so that
//! calls reach it.

#[path = "../osvm-kernel/build/image.rs"]
mod image;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    image::prepare("hostile", &["hostile"], unikraft_tool_executor::manifest_json())
}
