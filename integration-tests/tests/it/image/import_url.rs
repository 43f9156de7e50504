//! import of a URL, which the daemon fetches – docker import.

use keg_fixtures::registry::{HttpRequest, HttpResponse};
use keg_fixtures::{BadRegistry, Daemon, Image, requires};

fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let content = b"from afar\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, "it", &content[..]).unwrap();
    archive.into_inner().unwrap()
}

/// A web server with an archive, and with redirects to it and to where nobody should go.
fn server() -> BadRegistry {
    BadRegistry::new(Image::busybox(), |request, _| answer(request))
}

fn answer(request: &HttpRequest) -> HttpResponse {
    let whole = HttpResponse::new(200, archive());
    let moved = |to: &str| HttpResponse::new(302, "").header("Location", to);
    match request.path.as_str() {
        "/root.tar" => whole,
        "/moved" => moved("/root.tar"),
        "/to-a-file" => moved("file:///etc/passwd"),
        "/in-circles" => moved("/in-circles"),
        "/cut" => HttpResponse { declared_length: Some(1 << 20), ..whole },
        path if path.ends_with("http://afar.example/root.tar") => whole,
        _ => HttpResponse::new(404, "nothing here"),
    }
}

#[test]
fn an_archive_that_a_url_names_is_imported() {
    requires!(root);
    let (daemon, server) = (Daemon::new(), server());
    let url = format!("http://{}/moved", server.address());

    let imported = daemon.keg(["import", "-c", "CMD [\"/it\"]", &url, "afar:1"]).success();

    assert!(imported.stdout.starts_with("sha256:"), "{imported:?}");
    assert_eq!(daemon.inspect("afar:1")["Config"]["Cmd"], serde_json::json!(["/it"]));
    let _ = daemon.keg(["create", "--name", "box", "afar:1"]).success();
    let there = daemon.scratch().join("there");
    let _ = daemon.keg(["cp", "box:/it", there.to_str().unwrap()]).success();
    assert_eq!(std::fs::read_to_string(there).unwrap(), "from afar\n");
}

#[test]
fn what_cannot_be_fetched_is_told_and_makes_no_image() {
    requires!(root);
    let (daemon, server) = (Daemon::new(), server());
    let table = [
        ("nowhere?key=s3cret", "404"),
        ("to-a-file", "neither HTTPS nor HTTP"),
        ("in-circles", "one too many"),
        ("cut", "not received to its end"),
    ];

    let failed = table.map(|(path, reason)| {
        let url = format!("http://me:s3cret@{}/{path}", server.address());
        (daemon.keg(["import", &url, "afar:1"]), reason)
    });
    let unknown = daemon.keg(["import", "http://nobody.invalid/root.tar", "afar:1"]);

    for (outcome, reason) in &failed {
        assert!(outcome.exit_code != 0 && outcome.stderr.contains(reason), "{outcome:?}");
        assert!(!outcome.stderr.contains("s3cret"), "{outcome:?}");
    }
    assert!(!daemon.log().contains("s3cret"), "{}", daemon.log());
    assert!(unknown.exit_code != 0 && unknown.stderr.contains("nobody.invalid"), "{unknown:?}");
    assert_eq!(daemon.keg(["images", "-q"]).success().stdout, "");
}

#[test]
fn the_daemons_proxy_is_asked_for_what_is_not_on_this_machine() {
    requires!(root);
    let (proxy, near) = (server(), server());
    let address = format!("http://{}", proxy.address());
    let daemon =
        Daemon::with_environment("", &[("HTTP_PROXY", &address), ("http_proxy", &address)]);

    let _ = daemon.keg(["import", "http://afar.example/root.tar", "afar:1"]).success();
    let _ = daemon.keg(["import", &format!("http://{}/root.tar", near.address())]).success();

    assert_eq!(proxy.requests().len(), 1, "{:?}", proxy.requests());
    assert_eq!(near.requests().len(), 1, "{:?}", near.requests());
}
