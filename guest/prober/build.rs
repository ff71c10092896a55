//! Gives the prober the parts every image has, with a tool of its own.

#[path = "../osvm-kernel/build/image.rs"]
mod image;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=tools.json");
    image::prepare("osvm_prober", &["prober"], std::fs::read_to_string("tools.json")?)
}
