//! Wires the parts together, serves, and ends in order.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keg_build::Builder;
use keg_engine::events::EventHub;
use keg_engine::log::LogLimits;
use keg_engine::model::IdRange;
use keg_engine::{Engine, RuntimeConfig, Settings};
use keg_image::registry::RegistryOptions;
use keg_image::{Images, ImagesOptions};
use keg_network::{Cni, CniSettings, NetworkError, Networks, SubnetRequest};
use keg_proto::DESCRIPTORS;
use keg_proto::keg::v1::builds_server::BuildsServer;
use keg_proto::keg::v1::containers_server::ContainersServer;
use keg_proto::keg::v1::events_server::EventsServer;
use keg_proto::keg::v1::files_server::FilesServer;
use keg_proto::keg::v1::images_server::ImagesServer;
use keg_proto::keg::v1::limits_server::LimitsServer;
use keg_proto::keg::v1::networks_server::NetworksServer;
use keg_proto::keg::v1::registries_server::RegistriesServer;
use keg_proto::keg::v1::storage_server::StorageServer;
use keg_proto::keg::v1::system_server::SystemServer;
use keg_proto::keg::v1::volumes_server::VolumesServer;
use keg_store::{
    CopySnapshotter, Explain, IdRangePool, Namespace, OverlaySnapshotter, Snapshotter, Store,
};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::Server;

use crate::builder;
use crate::config::Config;
use crate::notify::{State, notify};
use crate::services;
use crate::socket::{self, Address, SocketError};
use crate::tls;

/// Name of the shim for containerd's runtime `io.containerd.keg.v2`.
const SHIM: &str = "containerd-shim-keg-v2";
/// Name of the program that is put before those of containers with `--init`.
const INIT: &str = "keg-init";
/// Name of the runtime, as a configured runtime and as a program.
const RUNTIME: &str = "keg-runtime";
/// Namespace of what is made over keg.v1.
const NAMESPACE: &str = "keg";
/// Persistent directory of the daemon that is installed on a machine.
const INSTALLED_ROOT: &str = "/var/lib/keg";
/// Digits by which the networks of another daemon are told from those.
const TAG_DIGITS: usize = 4;
/// How long calls that are under way may take once the daemon was asked to end.
const DRAIN: Duration = Duration::from_secs(3);
/// Bytes that a client may send ahead of what is read, per call: enough to keep an import going.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// The connections that come to one address.
enum Bound {
    /// By a socket of the file system, whose owner and mode say who may connect.
    Unix(UnixListenerStream),
    /// By TCP, of clients that have shown their certificate.
    Tcp(ReceiverStream<io::Result<tls::Connection>>),
}

/// Runs the daemon until it is asked to end.
///
/// # Errors
/// If it cannot serve: with what is missing, and what to do.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("kegd starts containers, which only root can: run it as root, for example by sudo");
    }
    let _state = claim_state(&config.state)?;
    let opening = config.clone();
    let (engine, images, build_ranges) =
        tokio::task::spawn_blocking(move || open(&opening)).await??;
    let events = engine.serve_shim_events().context("cannot listen for events of shims")?;
    let recovered = engine.recover().await.context("cannot read the containers' records")?;
    tracing::info!(
        containers = recovered.containers,
        running = recovered.running,
        leftovers = recovered.leftovers,
        "containers found"
    );

    let (opening, stored, settings) = (engine.clone(), images.clone(), config.build.clone());
    let builder = tokio::task::spawn_blocking(move || {
        builder::open(&opening, &stored, build_ranges, &settings)
    })
    .await??;
    let routes = routes(&engine, &images, builder)?;
    let (stop, stopping) = watch::channel(false);
    let mut sockets = Vec::new();
    let mut bound = Vec::new();
    let mut addresses = config
        .listen
        .iter()
        .map(|uri| Ok((uri, Address::parse(uri)?)))
        .collect::<Result<Vec<_>, SocketError>>()?;
    // The sockets of the file system last: whoever finds one finds the other addresses open too.
    addresses.sort_by_key(|(_, address)| matches!(address, Address::Unix(_)));
    for (uri, address) in addresses {
        bound.push(match address {
            Address::Unix(path) => {
                let (listener, path) = socket::listen(path)?;
                sockets.push(path);
                Bound::Unix(UnixListenerStream::new(listener))
            }
            Address::Tcp(address) => {
                Bound::Tcp(tls::listen(&address, &config.tls.files(uri)?).await?)
            }
        });
        tracing::info!(%uri, "listening");
    }
    let mut servers = tokio::task::JoinSet::new();
    for listener in bound {
        let mut stopping = stopping.clone();
        let end = async move {
            // An error means that the daemon is gone, which is the end as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .add_routes(routes.clone());
        match listener {
            Bound::Unix(incoming) => {
                servers.spawn(server.serve_with_incoming_shutdown(incoming, end))
            }
            Bound::Tcp(incoming) => {
                servers.spawn(server.serve_with_incoming_shutdown(incoming, end))
            }
        };
    }
    notify(State::Ready);

    let name = asked_to_end(&mut servers).await?;
    tracing::info!(signal = name, "ending; containers go on");
    notify(State::Stopping);
    let _ = stop.send(true);
    // Calls that never end by themselves, such as logs that are followed, are cut off.
    let drained =
        tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} });
    let _ = drained.await;
    // Else a mount would stay until the next start.
    let _ = tokio::time::timeout(DRAIN, engine.cleared()).await;
    events.abort();
    for path in sockets {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Waits for a signal, or for a server that fails.
async fn asked_to_end(
    servers: &mut tokio::task::JoinSet<Result<(), tonic::transport::Error>>,
) -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        Some(ended) = servers.join_next() => {
            ended?.context("a server failed")?;
            bail!("a server ended by itself");
        }
    }
}

/// Makes the state directory and makes sure that no other daemon uses it.
fn claim_state(state: &Path) -> anyhow::Result<Flock<std::fs::File>> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(state)
        .with_context(|| format!("cannot make the state directory {state:?} (--state)"))?;
    let path = state.join("kegd.pid");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write to the state directory {state:?} (--state)"))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow::Error::new(errno).context(format!(
            "another kegd uses the state directory {state:?}: stop it, or give --state and --root of your own"
        ))
    })?;
    use std::io::Write as _;
    lock.set_len(0)
        .and_then(|()| writeln!(&*lock, "{}", std::process::id()))
        .with_context(|| format!("cannot write {path:?}"))?;
    Ok(lock)
}

/// Opens what is on the disk.
fn open(config: &Config) -> anyhow::Result<(Engine, Images, Vec<IdRange>)> {
    let store = Store::open(&config.root)
        .with_context(|| format!("cannot use the root directory {:?} (--root)", config.root))?;
    let snapshotter: Arc<dyn Snapshotter> = match OverlaySnapshotter::new(&store) {
        Ok(overlay) => Arc::new(overlay),
        Err(error) => {
            tracing::warn!(error = %format!("{:#}", anyhow::Error::new(error)),
                "overlayfs cannot be used; every container copies its image");
            Arc::new(CopySnapshotter::new(&store))
        }
    };
    let namespace: Namespace = NAMESPACE.parse().context("the daemon's namespace")?;
    let images = Images::new(
        store.clone(),
        Arc::clone(&snapshotter),
        namespace.clone(),
        ImagesOptions {
            registry: RegistryOptions {
                insecure: config.registry.insecure.clone(),
                config_dirs: config.registry.config_dirs.clone(),
                ..RegistryOptions::default()
            },
            short_names: config.registry.short_names(),
            ..ImagesOptions::default()
        },
    );
    images.forget_interrupted().context("cannot end what an earlier daemon began")?;
    let mut settings = settings(config, store.root(), namespace)?;
    let (id_pool, build_ranges) = builder::split_pool(settings.id_pool);
    settings.id_pool = id_pool;
    let networks = open_networks(config, &settings);
    let cni = Cni::new(CniSettings {
        config_dirs: config.network.cni_config_dirs.clone(),
        plugin_dirs: config.network.cni_plugin_dirs.clone(),
        state_dir: settings.state.clone(),
    });
    let events = Arc::new(EventHub::default());
    let engine = Engine::new(settings, store, snapshotter, images.clone(), events, networks, cni);
    Ok((engine, images, build_ranges))
}

/// Opens the networks. A daemon without them is of use still, and says so.
fn open_networks(config: &Config, settings: &Settings) -> Result<Networks, NetworkError> {
    let subnet = |subnet| SubnetRequest { subnet, gateway: None, range: None };
    let outcome = Networks::open(keg_network::Settings {
        root_dir: settings.root.clone(),
        state_dir: settings.state.clone(),
        tag: network_tag(&settings.root),
        publish: config.network.publish,
        forward: config.network.forward,
        default_subnet: config.network.default_subnet.map(subnet),
        default_ipv6: config.network.default_ipv6,
        resolv_conf: "/etc/resolv.conf".into(),
    });
    outcome.inspect_err(|error| {
        tracing::error!(error = %format!("{error:#}"), remedy = error.remedy().as_deref(),
            "networks cannot be used; containers run with --network none or host only");
    })
}

/// Tells the interfaces and tables of this daemon from those of others on the machine: nothing for
/// the installed one, the beginning of the installation's id for any other.
fn network_tag(root: &Path) -> String {
    if root == Path::new(INSTALLED_ROOT) {
        return String::new();
    }
    let id = std::fs::read_to_string(root.join("id")).unwrap_or_default();
    id.chars().filter(char::is_ascii_hexdigit).take(TAG_DIGITS).collect()
}

fn settings(config: &Config, root: &Path, namespace: Namespace) -> anyhow::Result<Settings> {
    let (mut runtimes, mut shims) = (BTreeMap::new(), BTreeMap::new());
    for (name, runtime) in config.runtimes.clone() {
        match runtime {
            RuntimeConfig::Program(program) => drop(runtimes.insert(name, program)),
            RuntimeConfig::Shim(shim) => drop(shims.insert(name, shim)),
        }
    }
    let default_runtime = match &config.default_runtime {
        Some(name) => name.clone(),
        None => {
            if let Some(program) = find_program(RUNTIME) {
                runtimes.entry(RUNTIME.to_owned()).or_insert(program);
            }
            RUNTIME.to_owned()
        }
    };
    let shim = match &config.shim {
        Some(shim) => shim.clone(),
        None => find_program(SHIM).unwrap_or_else(|| {
            tracing::warn!("{SHIM} is neither beside kegd nor on the PATH; no container can start");
            PathBuf::from(SHIM)
        }),
    };
    let ids = &config.id_ranges;
    Ok(Settings {
        root: root.to_owned(),
        state: config.state.canonicalize().context("the state directory")?,
        namespace,
        shim,
        init: find_program(INIT),
        shim_debug: config.log_level == "debug" || config.log_level == "trace",
        runtimes,
        shims,
        default_runtime,
        default_network: config.default_network()?,
        id_pool: IdRangePool { start: ids.start, count: ids.length, ranges: ids.ranges },
        stop_timeout_secs: config.stop_timeout_secs,
        selinux: config.selinux,
        log: LogLimits { file_bytes: config.log.max_size_bytes, files: config.log.max_files },
    })
}

/// Looks for a program of ours beside this one, and then on the PATH.
fn find_program(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
}

/// Every service of the daemon.
fn routes(engine: &Engine, images: &Images, builder: Builder) -> anyhow::Result<Routes> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let serving = [
        <SystemServer<services::System> as tonic::server::NamedService>::NAME,
        <ImagesServer<services::Images> as tonic::server::NamedService>::NAME,
        <ContainersServer<services::Containers> as tonic::server::NamedService>::NAME,
        <RegistriesServer<services::Registries> as tonic::server::NamedService>::NAME,
        <StorageServer<services::Storage> as tonic::server::NamedService>::NAME,
        <EventsServer<services::Events> as tonic::server::NamedService>::NAME,
        <FilesServer<services::Files> as tonic::server::NamedService>::NAME,
        <LimitsServer<services::Limits> as tonic::server::NamedService>::NAME,
        <VolumesServer<services::Volumes> as tonic::server::NamedService>::NAME,
        <NetworksServer<services::Networks> as tonic::server::NamedService>::NAME,
        <BuildsServer<services::Builds> as tonic::server::NamedService>::NAME,
    ];
    tokio::spawn(async move {
        for name in serving {
            health.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
    });
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
    };
    Ok(Routes::default()
        .add_service(SystemServer::new(services::System::new(engine.clone(), images.clone())))
        .add_service(ImagesServer::new(services::Images::new(engine.clone(), images.clone())))
        .add_service(RegistriesServer::new(services::Registries::new(images.clone())))
        .add_service(StorageServer::new(services::Storage::new(engine.clone(), images.clone())))
        .add_service(ContainersServer::new(services::Containers::new(engine.clone())))
        .add_service(EventsServer::new(services::Events::new(engine.clone())))
        .add_service(FilesServer::new(services::Files::new(engine.clone())))
        .add_service(LimitsServer::new(services::Limits::new(engine.clone())))
        .add_service(VolumesServer::new(services::Volumes::new(engine.clone())))
        .add_service(NetworksServer::new(services::Networks::new(engine.clone())))
        .add_service(BuildsServer::new(services::Builds::new(
            builder,
            engine.clone(),
            images.clone(),
        )))
        .add_service(health_service)
        .add_service(reflection().build_v1().context("the API's description")?)
        .add_service(reflection().build_v1alpha().context("the API's description")?))
}
