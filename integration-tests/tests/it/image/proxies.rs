//! Proxies – HTTP_PROXY, HTTPS_PROXY and NO_PROXY in kegd's environment, as everybody reads them.

use keg_fixtures::registry::{HttpRequest, HttpResponse};
use keg_fixtures::{BadRegistry, Daemon, Image, requires};

/// A name that no machine has (RFC 2606); its registry may go without TLS.
const HOST: &str = "registry.example";
const INSECURE: &str = "[registry]\ninsecure = [\"registry.example\"]\n";

/// A proxy that is the registry itself, and nobody else: it answers what comes for that.
fn proxy() -> BadRegistry {
    BadRegistry::new(Image::busybox(), |request, right| match request.path.as_str() {
        path if path.starts_with("http://registry.example/v2/") => match path.ends_with("/v2/") {
            true => HttpResponse::new(200, "{}"),
            false => right,
        },
        _ => HttpResponse::new(502, "not for us"),
    })
}

fn daemon(variables: &[(&str, &str)]) -> Daemon {
    Daemon::with_environment(INSECURE, variables)
}

#[test]
fn a_registry_beyond_a_proxy_is_pulled_from_through_it() {
    requires!(root);
    let proxy = proxy();
    let address = format!("http://{}", proxy.address());
    let daemon = daemon(&[("HTTP_PROXY", &address), ("http_proxy", &address)]);

    daemon.pull(&format!("{HOST}/it"));

    let is_whole = |request: &HttpRequest| request.path.starts_with("http://registry.example/");
    assert!(proxy.requests().iter().all(is_whole), "{:?}", proxy.requests());
    assert_eq!(daemon.inspect(&format!("{HOST}/it"))["Id"], Image::busybox().config.digest);
}

#[test]
fn what_is_excepted_and_this_machine_itself_are_asked_without_the_proxy() {
    requires!(root);
    let (proxy, near) = (proxy(), BadRegistry::new(Image::busybox(), |_, right| right));
    let address = format!("http://{}", proxy.address());
    let except = [("NO_PROXY", HOST), ("no_proxy", HOST)];
    let through =
        [("HTTP_PROXY", &*address), ("http_proxy", &*address), ("HTTPS_PROXY", &*address)];
    let daemon = daemon(&[&through[..], &except].concat());

    daemon.pull(&format!("{}/it", near.address()));
    let excepted = daemon.keg(["pull", "-q", &format!("{HOST}/it")]);

    assert_ne!(excepted.exit_code, 0, "nobody has that name");
    assert!(excepted.stderr.contains(HOST), "{excepted:?}");
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}

#[test]
fn tls_goes_through_the_proxy_as_a_tunnel() {
    requires!(root);
    let proxy = proxy();
    let address = format!("http://{}", proxy.address());
    let daemon = daemon(&[("HTTPS_PROXY", &address), ("https_proxy", &address)]);

    let pulled = daemon.keg(["pull", "-q", "secure.example/it"]);

    assert!(pulled.exit_code != 0 && pulled.stderr.contains("secure.example"), "{pulled:?}");
    let asked = proxy.requests();
    let is_tunnel =
        |request: &HttpRequest| request.method == "CONNECT" && request.path == "secure.example:443";
    assert!(!asked.is_empty() && asked.iter().all(is_tunnel), "{asked:?}");
}
