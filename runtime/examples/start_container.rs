//! Runs a bundle by the library alone: plan, cgroup, launch, execute, wait.
//!
//! ```text
//! cargo run -p keg-runtime --example start_container -- /path/to/bundle
//! ```

use std::path::Path;

use anyhow::{Context, bail};
use keg_runtime::cgroup::{Cgroup, Driver};
use keg_runtime::plan::ContainerPlan;
use keg_runtime::self_protect::{self, Protected};
use keg_runtime::stage::launch::{LaunchOptions, launch};
use keg_runtime::state_store::OciState;
use nix::sys::wait::{WaitStatus, waitpid};

fn main() -> anyhow::Result<()> {
    let Some(bundle) = std::env::args_os().nth(1) else { bail!("usage: start_container BUNDLE") };
    let bundle = Path::new(&bundle).canonicalize().context("find the bundle")?;
    let spec = oci_spec::runtime::Spec::load(bundle.join("config.json"))?;
    let plan = ContainerPlan::from_spec(spec, &bundle)?;
    // The container must not be able to overwrite this program: from here on it runs from elsewhere.
    let protected = self_protect::protect(&plan.namespaces)?;

    let id = format!("example-{}", std::process::id());
    let mut cgroup = Cgroup::resolve(plan.cgroups_path.as_deref(), &id, Driver::CgroupFs)?;
    cgroup.begin(plan.resources.as_ref())?;
    let outcome = run(protected, &plan, &id, &bundle, &mut cgroup);
    cgroup.discard();
    println!("{:?}", outcome?);
    Ok(())
}

fn run(
    protected: Protected,
    plan: &ContainerPlan,
    id: &str,
    bundle: &Path,
    cgroup: &mut Cgroup,
) -> anyhow::Result<WaitStatus> {
    let state =
        OciState { oci_version: &plan.oci_version, id, bundle, annotations: &plan.annotations };
    let options = LaunchOptions {
        protected,
        console: None,
        gate: None,
        no_pivot: false,
        no_new_keyring: false,
        seccomp_cache: None,
        extra_env: &[],
        preserved: &[],
        rootfs: None,
        meanwhile: None,
    };
    let launched = launch(plan, state, Some(cgroup), options)?;
    launched.execute(plan)?;
    Ok(waitpid(launched.pid, None)?)
}
