//! Which guests a config asks to be kept ready.

use crate::Runtime;
use crate::call::{boot_page, grantable};
use crate::error::{CallError, chain};
use crate::pool::{Limits, Plan};
use crate::recipe::Recipe;
use osvm_policy::{ExecutionMode, Resolved};
use osvm_protocol::Cid;
use std::sync::Arc;

/// What a config means that has no `pool`: nothing is kept ready, and CIDs are the limit.
const NO_POOL: u32 = 0;

impl Runtime {
    /// What a pool is to hold for this config: one kind of guest for each image, memory size and
    /// set of variables that some tool asks for.
    pub fn plan(&self) -> Plan {
        let cids = self.cids().clone();
        let addresses = cids.range().filter(|raw| Cid::new(*raw).is_ok()).count();
        let addresses = u32::try_from(addresses).unwrap_or(u32::MAX);
        let pool = self.config().pool();
        let limits = Limits {
            // More than there are addresses would only wait for them.
            max_vms: pool.map_or(addresses, |pool| pool.max_vms.min(addresses)),
            max_vms_per_server: pool.map_or(addresses, |pool| pool.max_vms_per_server),
            max_memory_mb: pool.and_then(|pool| pool.max_memory_mb),
        };
        let size = pool.map_or(NO_POOL, |pool| pool.size);
        let (mut recipes, mut problems) = (Vec::<Arc<Recipe>>::new(), Vec::new());
        for policy in self.cases().filter(|_| size > 0) {
            match self.recipe(&policy) {
                Ok(recipe) if recipes.iter().any(|known| known.key == recipe.key) => {}
                Ok(recipe) => recipes.push(Arc::new(recipe)),
                Err(error) => {
                    let problem = chain(&error);
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                }
            }
        }
        Plan { limits, size, recipes, cids, problems }
    }

    /// Every case of unikernels that the config tells apart.
    fn cases(&self) -> impl Iterator<Item = Resolved> {
        let config = self.config();
        let named = config.servers().flat_map(move |entry| {
            // The empty name is nobody's, so it stands for all that have no entry.
            let tools = entry.tools.into_iter().chain([""]);
            tools.map(move |tool| config.resolve(entry.name, tool))
        });
        let all = named.chain([config.resolve("", "")]);
        all.filter(|policy| policy.mode == ExecutionMode::Unikernel)
    }

    fn recipe(&self, policy: &Resolved) -> Result<Recipe, CallError> {
        let memory = grantable(policy)?;
        let image = self.images().load(&policy.unikernel_image)?;
        Ok(Recipe::new(Arc::clone(self.backend()), image, memory, boot_page(policy)?))
    }
}
