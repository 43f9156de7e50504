//! What an operator says of registries: mirrors and certificates – containerd's hosts.toml.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keg_fixtures::registry::{HttpResponse, free_port};
use keg_fixtures::wait::{self, PATIENCE};
use keg_fixtures::{
    BadRegistry, Daemon, Image, Outcome, Registry, Scratch, Tree, programs, requires,
};

/// A daemon with a directory of settings for registries.
fn daemon(settings: &Scratch) -> Daemon {
    Daemon::with_config(&format!("[registry]\nconfig_dirs = [{:?}]\n", settings.path()))
}

fn write(settings: &Scratch, registry: &str, text: &str) {
    let directory = settings.directory(registry);
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_where_it_fails() {
    requires!(root);
    let settings = Scratch::new();
    let is_down = Arc::new(AtomicBool::new(false));
    let down = Arc::clone(&is_down);
    let mirror = BadRegistry::new(Image::busybox(), move |request, right| {
        let breaks = down.load(Ordering::SeqCst) && request.path.contains("/blobs/");
        if breaks { HttpResponse::new(500, "") } else { right }
    });
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let text =
        format!("[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]", mirror.address());
    write(&settings, &registry.address(), &text);
    let daemon = daemon(&settings);
    let image = format!("{}/it", registry.address());

    daemon.pull(&image);
    let asked_at_first = registry.requests().len();
    let _ = daemon.keg(["rmi", &image]).success();
    is_down.store(true, Ordering::SeqCst);
    daemon.pull(&image);

    assert_eq!(asked_at_first, 0, "the mirror has everything");
    let meant = format!("ns={}", registry.address());
    let tells = |path: &str| path.contains(&meant) || path.contains(&meant.replace(':', "%3A"));
    let asked = mirror.requests();
    let of_image = |path: &str| path.contains("/manifests/") || path.contains("/blobs/");
    assert!(asked.iter().all(|one| tells(&one.path) || !of_image(&one.path)), "{asked:?}");
    assert!(registry.requests().iter().any(|request| request.path.contains("/blobs/")));
}

#[test]
fn a_mirror_gets_none_of_the_registrys_credentials() {
    requires!(root);
    let settings = Scratch::new();
    let mirror = BadRegistry::new(Image::busybox(), |request, _| {
        assert_eq!(request.headers.get("authorization"), None);
        HttpResponse::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"mirror\"")
    });
    let registry = BadRegistry::new(Image::busybox(), |request, right| {
        match request.headers.contains_key("authorization") {
            true => right,
            false => HttpResponse::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"it\""),
        }
    });
    write(&settings, &registry.address(), &format!("[host.\"http://{}\"]", mirror.address()));
    let daemon = daemon(&settings);
    let login = ["login", "-u", "me", "--password-stdin", &registry.address()];
    let _ = daemon.keg_with_input("secret", login).success();

    daemon.pull(&format!("{}/it", registry.address()));

    assert!(!mirror.requests().is_empty());
    assert!(mirror.requests().iter().all(|one| !one.headers.contains_key("authorization")));
}

#[test]
fn settings_that_are_malformed_are_named_and_nothing_is_guessed() {
    requires!(root);
    let settings = Scratch::new();
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    write(&settings, &registry.address(), "sever = \"https://x.example\"");
    let daemon = daemon(&settings);

    let outcome = daemon.keg(["pull", &format!("{}/it", registry.address())]);

    assert_eq!(outcome.exit_code, 1);
    assert!(
        outcome.stderr.contains("hosts.toml") && outcome.stderr.contains("sever"),
        "{outcome:?}"
    );
    assert!(registry.requests().is_empty());
}

/// Debian's registry behind TLS, with a certificate that nobody vouches for.
struct TlsRegistry {
    address: String,
    authority: std::path::PathBuf,
    _server: Tree,
    _scratch: Scratch,
}

impl TlsRegistry {
    fn new() -> Self {
        let scratch = Scratch::new();
        let port = free_port();
        let openssl = programs::installed("openssl").unwrap();
        let path = |name: &str| scratch.join(name).display().to_string();
        let (certificate, key) = (path("ca.crt"), path("key.pem"));
        let request = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=Keg It Authority",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ];
        let _ = Outcome::of(Command::new(openssl).args(request), PATIENCE).success();
        let config = scratch.file(
            "config.yml",
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: '127.0.0.1:{port}', tls: {{certificate: {certificate}, key: {key}}}}}\n",
                path("data")
            ),
        );
        let registry = programs::installed("docker-registry").unwrap();
        let server = Tree::spawn(Command::new(registry).arg("serve").arg(config));
        let address = format!("127.0.0.1:{port}");
        wait::wait_until("the registry is up", PATIENCE, || {
            std::net::TcpStream::connect(&address).is_ok()
        });
        Self { address, authority: scratch.join("ca.crt"), _server: server, _scratch: scratch }
    }
}

#[test]
fn an_untrusted_certificate_is_told_with_the_remedy_and_a_trusted_one_works() {
    requires!(root, registry, openssl);
    let settings = Scratch::new();
    let registry = TlsRegistry::new();
    let daemon = daemon(&settings);
    let plain = BadRegistry::new(Image::busybox(), |_, right| right);
    let source = format!("{}/it", plain.address());
    daemon.pull(&source);
    let target = format!("{}/it:1", registry.address);
    let _ = daemon.keg(["tag", &source, &target]).success();

    let refused = daemon.keg(["push", &target]);
    let directory = settings.directory(&registry.address);
    std::fs::copy(&registry.authority, directory.join("ca.crt")).unwrap();
    let pushed = daemon.keg(["push", &target]);

    assert_eq!(refused.exit_code, 1);
    for part in ["certificate", "\"Keg It Authority\"", "certs.d", &registry.address] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    let _ = pushed.success();
    let _ = daemon.keg(["rmi", &target]).success();
    daemon.pull(&target);
}

#[test]
fn an_empty_registry_of_debians_is_searched() {
    requires!(root, registry);
    let (registry, reference) = Registry::with_busybox();
    let daemon = Daemon::new();

    let term = format!("{}/busy", registry.address());
    let found = daemon.keg(["search", "--format", "{{.Name}}", &term]).success();

    assert_eq!(found.stdout.trim(), reference.trim_end_matches(":latest"));
}

#[test]
fn a_mirror_lists_referrers_where_the_operator_says_that_it_can() {
    requires!(root);
    let settings = Scratch::new();
    let list = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", "a".repeat(64)),
            "size": 7,
            "artifactType": "application/spdx+json",
        }],
    });
    let mirror = BadRegistry::new(Image::busybox(), move |request, right| {
        match request.path.contains("/referrers/") {
            true => HttpResponse::new(200, list.to_string()),
            false => right,
        }
    });
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let image = format!("{}/it", registry.address());
    let says = |capabilities: &str| {
        let text = format!("[host.\"http://{}\"]\ncapabilities = {capabilities}", mirror.address());
        write(&settings, &registry.address(), &text);
    };
    let daemon = daemon(&settings);

    says("[\"pull\", \"resolve\", \"referrers\"]");
    let with = daemon.keg(["image", "referrers", &image]).success();
    says("[\"pull\", \"resolve\"]");
    let without = daemon.keg(["image", "referrers", &image]).success();

    assert!(with.stdout.contains("application/spdx+json"), "{with:?}");
    assert!(!without.stdout.contains("application/spdx+json"), "{without:?}");
}
