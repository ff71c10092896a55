//! A tree as an erofs image: read-only, not compressed, the same bytes for the same tree.
//!
//! Not compressed, because inflating pages costs more under an emulated CPU than reading them, and
//! because guests then share the pages of the image file itself.

use crate::error::BuildError;
use crate::jail::Yard;
use crate::programs;
use std::path::Path;

/// Any fixed UUID: two images of the same tree must not differ.
const UUID: &str = "6f73766d-726f-4f74-8000-000000000001";

/// Writes the image of the folder `tree` to `output`, a file in the build's folder. All files belong
/// to the user `owner`.
pub(crate) fn make(yard: &Yard, tree: &Path, output: &Path, owner: u32) -> Result<(), BuildError> {
    let program = programs::find("mkfs.erofs", "make root file systems", "erofs-utils")?;
    // Extended attributes off: the host's labels are not the image's.
    let fixed = ["--quiet", "-x-1", "-T0", "-U", UUID];
    let owner = ["uid", "gid"].map(|id| format!("--force-{id}={owner}"));
    let step = yard.step("make the root file system", program);
    let step = step.args(fixed).args(owner).args([output, tree]);
    yard.run(step).map(drop)
}
