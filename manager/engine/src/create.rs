//! Makes containers: everything is checked first, and then stored in one transaction.
//!
//! ```text
//!  resolve image ─▶ check request ─▶ plan process ─▶ directory ─▶ one transaction:
//!                                                       name, id range, snapshot, record
//! ```
//!
//! A crash before the transaction leaves an empty directory, which the next start of the daemon
//! removes; after it the container exists.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path};

use jiff::Timestamp;
use keg_image::ImageRecord;
use keg_network::NetworkMode;
use keg_store::{
    Container as StoredContainer, Durability, IdRangePool, MetadataError, PrepareOptions, Runtime,
    WriteTx,
};

use crate::container::Container;
use crate::cpuset;
use crate::engine::{EXTENSION, Engine, Shared, encode, file_error};
use crate::error::EngineError;
use crate::health::HealthCheck;
use crate::id::{ContainerId, ContainerName};
use crate::idmap;
use crate::joining;
use crate::labels::Modules;
use crate::lifecycle::Lifecycle;
use crate::model::{
    CreateRequest, ExposedPort, HostConfig, IdRange, ImageUse, Mount, MountSource, NamespaceMode,
    ProcessPlan, Record, UsernsMode,
};
use crate::names::made_up;
use crate::process_plan;
use crate::restart::RestartPolicy;
use crate::selinux::SelinuxLabels;

/// Made-up names that are tried before the last gets a long number.
const NAME_ATTEMPTS: u32 = 8;
/// Longest host name (sethostname(2)).
const HOSTNAME_BYTES_MAX: usize = 64;
/// Least memory that a runtime can start a process in; Docker's own bound.
const MEMORY_BYTES_MIN: i64 = 6 << 20;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
    /// What the caller should know, one sentence each.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container. Starts nothing.
    ///
    /// # Errors
    /// If the image is not here, the request makes no sense, or the name is in use. Nothing is
    /// left of it then.
    pub async fn create(&self, request: CreateRequest) -> Result<Created, EngineError> {
        let engine = self.clone();
        Self::detached("a new container", async move {
            let mut request = request;
            let mut warnings = engine.settle_networks(&mut request).await?;
            let inherited = engine.inherited_mounts(&request)?;
            let (request, shared_range) = engine.resolve_joins(request)?;
            let chosen = engine.choose_labels(&request.host)?;
            let given = Given {
                inherited,
                shared_range,
                selinux: chosen.as_ref().map(|chosen| chosen.labels.clone()),
            };
            let work = move |shared: &Shared| make(shared, request, given);
            let record = engine.blocking("a new container", work).await?;
            engine.insert(Container::new(record.clone()));
            // From now on the container itself keeps others from its categories.
            drop(chosen);
            engine.tell(&record, "create", &[]);
            warnings.extend(idmap::warnings(&record));
            Ok(Created { id: record.id, name: record.name, warnings })
        })
        .await
    }
}

/// What is known of a container before the disk is asked.
struct Given {
    /// Mounts of other containers.
    inherited: Vec<Mount>,
    /// Ids of the container whose user namespace it joins.
    shared_range: Option<IdRange>,
    /// Labels of SELinux.
    selinux: Option<SelinuxLabels>,
}

/// Does all of it that waits for the disk.
fn make(shared: &Shared, request: CreateRequest, given: Given) -> Result<Record, EngineError> {
    let Given { inherited, shared_range, selinux } = given;
    let random: [u8; 32] = random()?;
    let id = ContainerId::from_random(random);
    let image = shared.images.resolve(&request.config.image, request.platform.as_ref())?;
    shared.images.ensure_unpacked(&image)?;
    let request = joining::keep_caller(complete(shared, request, &image))?;
    check(shared, &request)?;
    let process = plan(&request, &image, &id)?;
    let mounts = shared.plan_mounts(&request, inherited, &image)?;
    check_name(shared, &request)?;
    let volumes = shared.make_volumes(&mounts, &request.host.mounts, &image)?;

    let dir = shared.dir(&id);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir.path())
        .map_err(file_error("make", dir.path()))?;
    let seed = u32::from_le_bytes([random[0], random[1], random[2], random[3]]);
    let planned = Planned { process, mounts, shared_range, selinux };
    // A volume that is made with it outlives it.
    let durability = match request.host.auto_remove && !volumes.has_new() {
        true => Durability::Crash,
        false => Durability::PowerCut,
    };
    let outcome = shared.store.transaction_outliving(durability, |tx| {
        let record = store(shared, tx, &request, &image, &id, planned, seed)?;
        volumes.enter(tx, &id)?;
        Ok(record)
    });
    if outcome.is_err() {
        volumes.undo();
        // What cannot be removed is found when the daemon starts next.
        let _ = std::fs::remove_dir(dir.path());
    } else {
        volumes.tell();
    }
    outcome
}

/// Refuses a name that is taken before volumes are filled in vain; the transaction decides.
fn check_name(shared: &Shared, request: &CreateRequest) -> Result<(), EngineError> {
    let Some(name) = &request.name else { return Ok(()) };
    match shared.store.read(|tx| tx.name_owner(&shared.settings.namespace, name.as_str()))? {
        Some(owner) => Err(MetadataError::NameInUse { name: name.to_string(), owner }.into()),
        None => Ok(()),
    }
}

/// Fills in what the request leaves to the image and to the daemon.
fn complete(shared: &Shared, mut request: CreateRequest, image: &ImageRecord) -> CreateRequest {
    request.config.health_check = HealthCheck::merge(
        request.config.health_check.take(),
        HealthCheck::of_image(&image.config_json),
    );
    if let Some(of_image) =
        image.config.config().as_ref().and_then(|config| config.labels().as_ref())
    {
        for (key, value) in of_image {
            request.config.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let exposed = image.config.config().as_ref().and_then(|config| config.exposed_ports().as_ref());
    let exposed = exposed.into_iter().flatten().filter_map(|text| ExposedPort::parse(text));
    request.config.exposed_ports.extend(exposed);
    let on_hosts_network = request.host.network_mode == Some(NetworkMode::Host);
    let shares_name = on_hosts_network || request.host.uts_mode == NamespaceMode::Host;
    if request.config.hostname.is_empty() && shares_name {
        request.config.hostname = shared.host.hostname.clone();
    }
    request
}

fn plan(
    request: &CreateRequest,
    image: &ImageRecord,
    id: &ContainerId,
) -> Result<ProcessPlan, EngineError> {
    let hostname = match request.config.hostname.as_str() {
        "" => id.short(),
        hostname => hostname,
    };
    let none = oci_spec::image::Config::default();
    let of_image = image.config.config().as_ref().unwrap_or(&none);
    process_plan::plan(of_image, &request.config, hostname).map_err(EngineError::Plan)
}

/// What a container will be, as far as the database is not asked.
struct Planned {
    process: ProcessPlan,
    mounts: Vec<Mount>,
    /// Of the container whose user namespace it joins.
    shared_range: Option<IdRange>,
    selinux: Option<SelinuxLabels>,
}

/// Enters the container into the database, whole or not at all.
fn store(
    shared: &Shared,
    tx: &WriteTx<'_>,
    request: &CreateRequest,
    image: &ImageRecord,
    id: &ContainerId,
    planned: Planned,
    seed: u32,
) -> Result<Record, EngineError> {
    let Planned { process, mounts, shared_range, selinux } = planned;
    let ns = &shared.settings.namespace;
    let name = match &request.name {
        Some(name) => name.clone(),
        None => free_name(shared, tx, seed)?,
    };
    let snapshot_key = format!("container-{id}");
    let mut stored = StoredContainer::new(id.as_str());
    stored.labels = request.config.labels.clone();
    stored.image = image.display_name();
    stored.runtime = Runtime { name: "io.containerd.keg.v2".to_owned(), options: Vec::new() };
    stored.snapshotter = shared.snapshotter.name().to_owned();
    stored.snapshot_key.clone_from(&snapshot_key);
    tx.create_container(ns, &stored)?;
    tx.reserve_name(ns, name.as_str(), id.as_str())?;
    let range = match &request.host.userns {
        UsernsMode::Auto | UsernsMode::KeepId(_) => {
            Some(tx.allocate_id_range(ns, id.as_str(), &shared.settings.id_pool)?)
        }
        UsernsMode::Sized(count) => {
            let all = &shared.settings.id_pool;
            let ids = u64::from(all.count) * u64::from(all.ranges);
            let ranges = u32::try_from(ids / u64::from(*count)).unwrap_or(u32::MAX);
            let pool = IdRangePool { start: all.start, count: *count, ranges };
            Some(tx.allocate_id_range(ns, id.as_str(), &pool)?)
        }
        UsernsMode::Container(_) => {
            shared_range.map(|range| keg_store::IdRange { base: range.start, count: range.length })
        }
        UsernsMode::Host => None,
    };
    let options = PrepareOptions { id_range: range, ..PrepareOptions::default() };
    shared.snapshotter.prepare_in(tx, ns, &snapshot_key, image.snapshot_parent(), &options)?;

    let record = Record {
        id: id.clone(),
        name,
        created_at: Timestamp::now(),
        image: ImageUse {
            reference: request.config.image.clone(),
            id: image.id.to_string(),
            platform: match image.platform.architecture.is_empty() {
                true => String::new(),
                false => image.platform.to_string(),
            },
        },
        config: request.config.clone(),
        host: request.host.clone(),
        mounts,
        process,
        id_range: range.map(|range| IdRange { start: range.base, length: range.count }),
        snapshot_key,
        selinux,
        restart_count: 0,
        stop_asked: false,
        health: None,
        is_restarting: false,
        lifecycle: Lifecycle::Created { failure: None },
    };
    tx.set_container_extension(ns, id.as_str(), EXTENSION, &encode(&record)?)?;
    Ok(record)
}

/// Makes a name up that nobody has.
fn free_name(shared: &Shared, tx: &WriteTx<'_>, seed: u32) -> Result<ContainerName, EngineError> {
    let ns = &shared.settings.namespace;
    for attempt in 0..NAME_ATTEMPTS {
        let seed = seed.wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
        let name = made_up(seed, attempt);
        if tx.name_owner(ns, &name)?.is_none() {
            return ContainerName::parse(&name).map_err(EngineError::InvalidId);
        }
    }
    ContainerName::parse(&made_up(seed, NAME_ATTEMPTS)).map_err(EngineError::InvalidId)
}

/// Refuses what cannot work, before anything is made.
fn check(shared: &Shared, request: &CreateRequest) -> Result<(), EngineError> {
    let invalid = |field, problem: &str| {
        Err(EngineError::InvalidField { field, problem: problem.to_owned() })
    };
    let hostname = &request.config.hostname;
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if hostname.len() > HOSTNAME_BYTES_MAX || !hostname.bytes().all(valid) {
        return invalid(
            "hostname",
            "a host name has at most 64 letters, digits, \"-\", \".\" or \"_\"",
        );
    }
    check_runtime(shared, &request.host.runtime)?;
    if request.host.auto_remove && request.host.restart != RestartPolicy::No {
        return invalid("restart", "a container that is removed when it ends cannot be restarted");
    }
    request.host.log.check(shared.settings.log)?;
    Modules::ask().choose(&request.host)?;
    check_limits(shared, &request.host)?;
    check_mounts(request)
}

/// Refuses a runtime that is none.
fn check_runtime(shared: &Shared, asked: &str) -> Result<(), EngineError> {
    shared
        .settings
        .runtime(asked)
        .map(drop)
        .map_err(|error| EngineError::InvalidField { field: "runtime", problem: error.to_string() })
}

/// Refuses limits that contradict each other, or the host.
pub(crate) fn check_limits(shared: &Shared, host: &HostConfig) -> Result<(), EngineError> {
    let invalid = |field, problem: &str| {
        Err(EngineError::InvalidField { field, problem: problem.to_owned() })
    };
    let limits = &host.resources;
    if limits.memory_bytes.is_some_and(|limit| limit < MEMORY_BYTES_MIN) {
        return invalid("memory", "the least memory that a container can be given is 6 MiB");
    }
    if let (Some(swap), memory) =
        (limits.memory_swap_bytes.filter(|swap| *swap >= 0), limits.memory_bytes)
    {
        match memory {
            None => return invalid("memory-swap", "a limit on swap needs a limit on memory"),
            Some(memory) if swap < memory => {
                return invalid(
                    "memory-swap",
                    "it counts memory and swap together, so it cannot be less than memory",
                );
            }
            Some(_) => {}
        }
    }
    if limits.cpu_shares.is_some_and(|shares| !(2..=262_144).contains(&shares)) {
        return invalid("cpu-shares", "a weight is from 2 to 262144");
    }
    let cpus = u64::from(shared.host.cpus) * 1_000_000_000;
    if limits.nano_cpus.is_some_and(|limit| limit < 10_000_000 || limit > cpus) {
        return Err(EngineError::InvalidField {
            field: "cpus",
            problem: format!("this host has {} processors; give 0.01 to {0}.00", shared.host.cpus),
        });
    }
    if limits.nano_cpus.is_some()
        && (limits.cpu_quota_usec.is_some() || limits.cpu_period_usec.is_some())
    {
        return invalid("cpus", "--cpus excludes --cpu-quota and --cpu-period");
    }
    cpuset::check(cpuset::Kind::Processors, limits.cpuset_cpus.as_deref())?;
    cpuset::check(cpuset::Kind::Nodes, limits.cpuset_mems.as_deref())?;
    if limits.blkio_weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return invalid("blkio-weight", "a weight is from 10 to 1000");
    }
    if limits.memory_swappiness.is_some_and(|percent| percent > 100) {
        return invalid("memory-swappiness", "it is from 0 to 100");
    }
    if let (Some(soft), Some(hard)) = (limits.memory_reservation_bytes, limits.memory_bytes)
        && soft > hard
    {
        return invalid("memory-reservation", "the soft limit cannot be more than the hard one");
    }
    if host.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        return invalid("oom-score-adj", "it is from -1000 to 1000");
    }
    if !host.cgroup_parent.is_empty()
        && !is_plain_absolute(&Path::new("/").join(&host.cgroup_parent))
    {
        return invalid("cgroup-parent", "it is not a path without \"..\"");
    }
    Ok(())
}

fn check_mounts(request: &CreateRequest) -> Result<(), EngineError> {
    let invalid = |problem| EngineError::InvalidField { field: "mount", problem };
    let mut targets = BTreeSet::new();
    for mount in &request.host.mounts {
        let target = &mount.target;
        if !is_plain_absolute(target) || target == Path::new("/") {
            return Err(invalid(format!(
                "the target {target:?} is not an absolute path below /, without \"..\""
            )));
        }
        if !targets.insert(target) {
            return Err(invalid(format!("two mounts have the target {target:?}")));
        }
        match &mount.source {
            MountSource::Bind { path, create } => {
                if !is_plain_absolute(path) {
                    return Err(invalid(format!(
                        "the source {path:?} is not an absolute path without \"..\""
                    )));
                }
                if !create {
                    std::fs::metadata(path)
                        .map_err(|source| EngineError::BindSource { path: path.clone(), source })?;
                }
            }
            MountSource::Volume { .. } | MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(())
}

/// Whether a path begins at the root and goes down only.
fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && !path.as_os_str().as_encoded_bytes().contains(&0)
        && path
            .components()
            .all(|component| matches!(component, Component::RootDir | Component::Normal(_)))
}

/// Octets from the kernel's random source.
pub(crate) fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], EngineError> {
    let mut octets = [0; LENGTH];
    rustix::rand::getrandom(&mut octets[..], rustix::rand::GetRandomFlags::empty()).map_err(
        |errno| EngineError::File {
            action: "read random octets from",
            path: "getrandom(2)".into(),
            source: errno.into(),
        },
    )?;
    Ok(octets)
}
