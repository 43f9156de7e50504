//! The daemon's settings: read once, checked, and then fixed.
//!
//! Command line before file before default. The file is `kegd.example.toml` with comments; a test
//! keeps the two in step.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use keg_engine::RuntimeConfig;
use keg_image::{Reference, ShortNameError, ShortNamePolicy, ShortNames};
use keg_network::{Cidr, ForwardMode, NetworkMode, PublishMode, UnknownNetwork};
use keg_store::IdRangePool;
use serde::Deserialize;

/// Where the configuration is looked for if nobody says.
const DEFAULT_PATH: &str = "/etc/keg/kegd.toml";

/// Keg's daemon: images, containers and their lives, over gRPC.
#[derive(Debug, Parser)]
#[command(name = "kegd", version, about, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub(crate) config: PathBuf,
    /// Persistent directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Runtime directory, empty after a restart of the machine.
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Where clients connect: unix:///PATH, or tcp://HOST:PORT with TLS. May be given several times.
    #[arg(long, value_name = "URI")]
    pub(crate) listen: Vec<String>,
    /// Authority that must have signed the certificates of clients over TCP (PEM).
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca_cert: Option<PathBuf>,
    /// Certificate that clients over TCP are shown (PEM).
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of that certificate (PEM).
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as info,keg_image=debug.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Form of the log.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one object per line.
    Json,
}

/// The configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Persistent directory.
    pub(crate) root: PathBuf,
    /// Runtime directory.
    pub(crate) state: PathBuf,
    /// Where clients connect; empty: `kegd.sock` in the runtime directory.
    pub(crate) listen: Vec<String>,
    /// Certificates for clients over TCP.
    pub(crate) tls: TlsConfig,
    /// Level or filter.
    pub(crate) log_level: String,
    /// Form of the log.
    pub(crate) log_format: LogFormat,
    /// Shim program.
    pub(crate) shim: Option<PathBuf>,
    /// Network of containers that ask for none.
    pub(crate) default_network: String,
    /// Seconds between the stop signal and SIGKILL.
    pub(crate) stop_timeout_secs: u32,
    /// Whether containers get labels of SELinux; `None`: where the host can.
    pub(crate) selinux: Option<bool>,
    /// Runtime of containers that ask for none.
    pub(crate) default_runtime: Option<String>,
    /// Runtimes and shims, by name.
    pub(crate) runtimes: BTreeMap<String, RuntimeConfig>,
    /// Logs of containers.
    pub(crate) log: LogConfig,
    /// Host ids for user namespaces.
    pub(crate) id_ranges: IdRanges,
    /// Registries.
    pub(crate) registry: RegistryConfig,
    /// Networks.
    pub(crate) network: NetworkConfig,
    /// Builds.
    pub(crate) build: BuildConfig,
}

/// Builds, and what they leave for later ones.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BuildConfig {
    /// Bytes that results of steps may take; files of contexts and caches that steps mount may each
    /// take a quarter of that.
    pub(crate) cache_max_bytes: u64,
    /// Seconds after which a result goes that no build has used; 0: never.
    pub(crate) cache_keep_secs: u64,
    /// Steps that run at the same time, over all builds; 0: as many as there are processors.
    pub(crate) parallel_steps: u32,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self { cache_max_bytes: 20 << 30, cache_keep_secs: 0, parallel_steps: 0 }
    }
}

/// Certificates for clients over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsConfig {
    /// Authority that must have signed the certificates of clients.
    pub(crate) ca: Option<PathBuf>,
    /// Certificate of the daemon, with those between it and its authority.
    pub(crate) cert: Option<PathBuf>,
    /// Key of that certificate.
    pub(crate) key: Option<PathBuf>,
}

impl TlsConfig {
    /// The three files, or what is missing.
    ///
    /// # Errors
    /// [`ConfigError::Tls`] for the address `uri`, which needs them.
    pub(crate) fn files(&self, uri: &str) -> Result<TlsFiles, ConfigError> {
        match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => {
                Ok(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() })
            }
            (ca, cert, key) => {
                let settings = [
                    (ca, "tls.ca (--tls-ca-cert)"),
                    (cert, "tls.cert (--tls-cert)"),
                    (key, "tls.key (--tls-key)"),
                ];
                let missing = settings.into_iter().filter(|(file, _)| file.is_none());
                let missing: Vec<_> = missing.map(|(_, name)| name).collect();
                Err(ConfigError::Tls { uri: uri.to_owned(), missing: missing.join(", ") })
            }
        }
    }
}

/// The files of a complete [`TlsConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Authority of the clients.
    pub(crate) ca: PathBuf,
    /// Certificate of the daemon.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

/// Networks, and how they get on with the host's firewall.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NetworkConfig {
    /// Who decides who may reach published ports.
    pub(crate) publish: PublishMode,
    /// What becomes of containers' packets where the host drops what it routes.
    pub(crate) forward: ForwardMode,
    /// Subnet of the default network; absent: one is chosen.
    pub(crate) default_subnet: Option<Cidr>,
    /// Whether the default network has IPv6.
    pub(crate) default_ipv6: bool,
    /// Directories with configurations of CNI networks, the first first.
    pub(crate) cni_config_dirs: Vec<PathBuf>,
    /// Directories with CNI plugins, the first first.
    pub(crate) cni_plugin_dirs: Vec<PathBuf>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            publish: PublishMode::default(),
            forward: ForwardMode::default(),
            default_subnet: None,
            default_ipv6: false,
            cni_config_dirs: vec!["/etc/cni/net.d".into()],
            cni_plugin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        }
    }
}

/// How registries are talked to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RegistryConfig {
    /// Registries that may speak plain HTTP, or have a certificate that nobody vouches for.
    pub(crate) insecure: Vec<String>,
    /// Directories with settings for registries: `HOST[:PORT]/hosts.toml`, or certificates.
    pub(crate) config_dirs: Vec<PathBuf>,
    /// What names without a registry mean.
    pub(crate) short_names: ShortNameMode,
    /// Registries in which names without one are looked for, with `short_names = "search"`.
    pub(crate) search: Vec<String>,
    /// What single names without a registry mean.
    pub(crate) aliases: BTreeMap<String, String>,
}

/// What names without a registry mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ShortNameMode {
    /// `docker.io`, as with Docker.
    #[default]
    Docker,
    /// The first registry of a list that has them.
    Search,
    /// Nothing.
    Deny,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        let config_dirs = ["/etc/keg/certs.d", "/etc/docker/certs.d"];
        Self {
            insecure: Vec::new(),
            config_dirs: config_dirs.map(PathBuf::from).to_vec(),
            short_names: ShortNameMode::default(),
            search: Vec::new(),
            aliases: BTreeMap::new(),
        }
    }
}

impl RegistryConfig {
    /// What names without a registry mean.
    pub(crate) fn short_names(&self) -> ShortNames {
        let policy = match self.short_names {
            ShortNameMode::Docker => ShortNamePolicy::Docker,
            ShortNameMode::Search => ShortNamePolicy::Search(self.search.clone()),
            ShortNameMode::Deny => ShortNamePolicy::Deny,
        };
        ShortNames { policy, aliases: self.aliases.clone() }
    }

    /// # Errors
    /// [`ConfigError::Search`], [`ConfigError::ShortName`].
    fn check(&self) -> Result<(), ConfigError> {
        if (self.short_names == ShortNameMode::Search) == self.search.is_empty() {
            return Err(ConfigError::Search);
        }
        // Any name does: it is what the settings make of it that must be one.
        let names = std::iter::once("x").filter(|_| self.short_names == ShortNameMode::Search);
        for name in names.chain(self.aliases.keys().map(String::as_str)) {
            self.short_names().meanings(name).map_err(ConfigError::ShortName)?;
        }
        let is_tagged = |name: &&String| name.contains([':', '@']) || !Reference::is_short(name);
        match self.aliases.keys().find(is_tagged) {
            Some(name) => Err(ConfigError::Alias { name: name.clone() }),
            None => Ok(()),
        }
    }
}

/// Rotation of containers' logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    /// Bytes of a file before the next is begun.
    pub(crate) max_size_bytes: u64,
    /// Files kept, the current one included.
    pub(crate) max_files: u32,
}

/// Host ids for user namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct IdRanges {
    /// First id of the first range.
    pub(crate) start: u32,
    /// Ids in a range.
    pub(crate) length: u32,
    /// How many ranges.
    pub(crate) ranges: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/keg".into(),
            state: "/run/keg".into(),
            listen: Vec::new(),
            tls: TlsConfig::default(),
            log_level: "info".into(),
            log_format: LogFormat::Text,
            shim: None,
            default_network: "bridge".into(),
            stop_timeout_secs: 10,
            selinux: None,
            default_runtime: None,
            runtimes: BTreeMap::new(),
            log: LogConfig::default(),
            id_ranges: IdRanges::default(),
            registry: RegistryConfig::default(),
            network: NetworkConfig::default(),
            build: BuildConfig::default(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { max_size_bytes: 20 << 20, max_files: 5 }
    }
}

impl Default for IdRanges {
    fn default() -> Self {
        let pool = IdRangePool::default();
        Self { start: pool.start, length: pool.count, ranges: pool.ranges }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is malformed.
    #[error("the configuration {path:?} is malformed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A path must not depend on where the daemon was started.
    #[error("{key} = {path:?} is not an absolute path")]
    RelativePath {
        /// Which setting.
        key: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// No such network.
    #[error("default_network")]
    Network(#[source] UnknownNetwork),
    /// A number out of range.
    #[error("{key} must be {wanted}")]
    Number {
        /// Which setting.
        key: &'static str,
        /// What it can be.
        wanted: &'static str,
    },
    /// An address that strangers can reach, and nothing to tell them by.
    #[error(
        "{uri} is served with mutual TLS only, because whoever may speak to kegd is root: set {missing}"
    )]
    Tls {
        /// The address.
        uri: String,
        /// The settings that are missing.
        missing: String,
    },
    /// A list of registries and the setting that uses it belong together.
    #[error("registry.search lists registries if, and only if, registry.short_names = \"search\"")]
    Search,
    /// Something does not make a name of an image.
    #[error("registry")]
    ShortName(#[source] ShortNameError),
    /// An alias for what is no name without a registry.
    #[error("registry.aliases: {name:?} must be a name without registry, tag and digest")]
    Alias {
        /// The name.
        name: String,
    },
    /// A runtime that is not configured.
    #[error("default_runtime = {name:?} is not one of [runtimes]")]
    UnknownRuntime {
        /// Its name.
        name: String,
    },
}

impl Config {
    /// Reads the file that the arguments name, and lets the arguments have the last word. The
    /// default file need not exist; one that was named must.
    ///
    /// # Errors
    /// [`ConfigError`] naming file and key.
    pub(crate) fn load(arguments: &Arguments) -> Result<Self, ConfigError> {
        let path = &arguments.config;
        let mut config = match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text)
                .map_err(|source| ConfigError::Malformed { path: path.clone(), source })?,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) =>
            {
                Self::default()
            }
            Err(source) => return Err(ConfigError::Read { path: path.clone(), source }),
        };
        if let Some(root) = &arguments.root {
            config.root.clone_from(root);
        }
        if let Some(state) = &arguments.state {
            config.state.clone_from(state);
        }
        if !arguments.listen.is_empty() {
            config.listen.clone_from(&arguments.listen);
        } else if arguments.state.is_some() {
            // A socket that the file names for another state directory is another daemon's.
            config.listen.clear();
        }
        config.tls = TlsConfig {
            ca: arguments.tls_ca_cert.clone().or(config.tls.ca),
            cert: arguments.tls_cert.clone().or(config.tls.cert),
            key: arguments.tls_key.clone().or(config.tls.key),
        };
        if let Some(level) = &arguments.log_level {
            config.log_level.clone_from(level);
        }
        if let Some(format) = arguments.log_format {
            config.log_format = format;
        }
        if config.listen.is_empty() {
            config.listen.push(format!("unix://{}", config.state.join("kegd.sock").display()));
        }
        config.check()?;
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, Box<toml::de::Error>> {
        toml::from_str(text).map_err(Box::new)
    }

    /// The network of containers that ask for none.
    ///
    /// # Errors
    /// [`ConfigError::Network`].
    pub(crate) fn default_network(&self) -> Result<NetworkMode, ConfigError> {
        self.default_network.parse().map_err(ConfigError::Network)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let paths = [
            ("root", Some(&self.root)),
            ("state", Some(&self.state)),
            ("shim", self.shim.as_ref()),
            ("tls.ca", self.tls.ca.as_ref()),
            ("tls.cert", self.tls.cert.as_ref()),
            ("tls.key", self.tls.key.as_ref()),
        ];
        for (key, path) in paths {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(ConfigError::RelativePath { key, path: path.clone() });
            }
        }
        for runtime in self.runtimes.values() {
            if let RuntimeConfig::Program(path) = runtime
                && !path.is_absolute()
            {
                return Err(ConfigError::RelativePath { key: "runtimes", path: path.clone() });
            }
        }
        for uri in self.listen.iter().filter(|uri| uri.starts_with("tcp://")) {
            self.tls.files(uri)?;
        }
        self.default_network()?;
        if let Some(path) = self.registry.config_dirs.iter().find(|path| !path.is_absolute()) {
            let key = "registry.config_dirs";
            return Err(ConfigError::RelativePath { key, path: path.clone() });
        }
        self.registry.check()?;
        if self.log.max_size_bytes < 4096 {
            let (key, wanted) = ("log.max_size_bytes", "at least 4096");
            return Err(ConfigError::Number { key, wanted });
        }
        if self.log.max_files == 0 {
            return Err(ConfigError::Number { key: "log.max_files", wanted: "at least 1" });
        }
        let end = u64::from(self.id_ranges.start)
            + u64::from(self.id_ranges.length) * u64::from(self.id_ranges.ranges);
        if self.id_ranges.start < 1000 || self.id_ranges.length == 0 || end > u64::from(u32::MAX) {
            let wanted = "ranges of ids from 1000 to 4294967294";
            return Err(ConfigError::Number { key: "id_ranges", wanted });
        }
        match &self.default_runtime {
            Some(name) if !self.runtimes.contains_key(name) => {
                Err(ConfigError::UnknownRuntime { name: name.clone() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../kegd.example.toml");

    #[test]
    fn the_example_is_the_default() {
        let mut example = Config::parse(EXAMPLE).unwrap();
        assert_eq!(example.listen, ["unix:///run/keg/kegd.sock"]);

        example.listen.clear();

        assert_eq!(example, Config::default());
    }

    #[test]
    fn what_the_example_comments_out_is_valid() {
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !rest.contains(':') => rest,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n");
        let mut config = Config::parse(&all).unwrap();

        assert!(config.shim.is_some());
        assert!(
            matches!(config.check(), Err(ConfigError::UnknownRuntime { name }) if name == "keg")
        );
        let program = RuntimeConfig::Program("/usr/local/bin/keg-runtime".into());
        config.runtimes.insert("keg".into(), program);
        config.check().unwrap();
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        assert!(Config::parse("rot = \"/x\"").is_err());
        assert!(Config::parse("[log]\nsize = 1").is_err());
        for text in [
            "root = \"relative\"",
            "default_network = \"\"",
            "[network]\npublish = \"open\"",
            "default_runtime = \"runc\"",
            "[log]\nmax_files = 0",
            "[id_ranges]\nstart = 0",
            "[id_ranges]\nranges = 4294967295",
            "[runtimes]\nrunc = \"runc\"",
            "[registry]\nshort_names = \"search\"",
            "[registry]\nsearch = [\"quay.io\"]",
            "[registry]\nshort_names = \"search\"\nsearch = [\"no host\"]",
            "[registry.aliases]\napp = \"No Name\"",
            "[registry.aliases]\n\"app:1\" = \"quay.io/team/app\"",
        ] {
            let refused = Config::parse(text).map_or(true, |config| config.check().is_err());
            assert!(refused, "{text}");
        }
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kegd.toml");
        std::fs::write(&path, "root = \"/a\"\nstate = \"/b\"\nlisten = [\"unix:///c\"]").unwrap();
        let load = |more: &[&str]| {
            let path = path.to_str().unwrap();
            let named = ["kegd", "--config", path];
            let arguments = named.iter().chain(more).copied();
            Config::load(&Arguments::parse_from(arguments)).unwrap()
        };

        assert_eq!(load(&[]).listen, ["unix:///c"]);
        assert_eq!(load(&["--root", "/x"]).root, Path::new("/x"));
        assert_eq!(load(&["--state", "/s"]).listen, ["unix:///s/kegd.sock"]);
        assert_eq!(load(&["--listen", "unix:///l"]).listen, ["unix:///l"]);
    }

    #[test]
    fn tcp_without_certificates_is_refused_with_what_is_missing() {
        let text = "listen = [\"tcp://0.0.0.0:2376\"]\n[tls]\ncert = \"/c\"";
        let mut config = Config::parse(text).unwrap();

        let refused = config.check().unwrap_err().to_string();

        assert!(refused.contains("tcp://0.0.0.0:2376"), "{refused}");
        assert!(refused.ends_with("set tls.ca (--tls-ca-cert), tls.key (--tls-key)"), "{refused}");
        (config.tls.ca, config.tls.key) = (Some("/a".into()), Some("/k".into()));
        config.check().unwrap();
    }

    #[test]
    fn a_named_file_that_does_not_exist_is_an_error() {
        let arguments = Arguments::parse_from(["kegd", "--config", "/nonexistent/kegd.toml"]);

        assert!(matches!(Config::load(&arguments), Err(ConfigError::Read { .. })));
    }
}
