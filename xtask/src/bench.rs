//! stub
use crate::project::Project;
pub(crate) fn run(_: &Project, _: Option<&str>) -> anyhow::Result<()> {
    Ok(())
}
