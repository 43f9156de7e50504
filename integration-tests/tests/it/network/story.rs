//! A web server published with `-p 8080:80`, reached from the host and from another machine: nginx,
//! as Debian has it.

use std::path::Path;

use keg_fixtures::{Daemon, Machine, RootArchive, requires};

const CONFIG: &str = "
user nobody nogroup;
pid /tmp/nginx.pid;
events {}
http {
    client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
    access_log /dev/stdout;
    server { listen 80; root /www; }
}
";

/// nginx and what it needs: its libraries, a configuration, a document.
fn nginx_image(archive: &Path) {
    RootArchive::new(archive)
        .text("nginx.conf", CONFIG)
        .text("www/index.html", "hello from nginx\n")
        .text("etc/passwd", "root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n")
        .text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        .program("nginx")
        .finish();
}

#[test]
fn a_web_server_is_reached_from_the_host_and_from_another_machine() {
    requires!(root, nginx);
    let (host, outside) = Machine::pair();
    let (daemon, _) = Daemon::on(&host, "");
    let archive = daemon.scratch().join("nginx.tar");
    nginx_image(&archive);
    let command =
        r#"CMD ["/usr/sbin/nginx", "-e", "stderr", "-c", "/nginx.conf", "-g", "daemon off;"]"#;
    let _ = daemon.keg(["import", "-c", command, archive.to_str().unwrap(), "nginx"]).success();

    let _ = daemon.run_detached(["--name", "web", "-p", "8080:80", "nginx"]);
    keg_fixtures::wait_until("nginx answers", keg_fixtures::wait::PATIENCE, || {
        host.get("127.0.0.1:8080", "/").is_ok()
    });

    let from_outside = outside.get("192.0.2.1:8080", "/index.html").unwrap();
    assert!(from_outside.starts_with("HTTP/1.1 200 OK"), "{from_outside}");
    assert!(from_outside.ends_with("hello from nginx\n"), "{from_outside}");
    let logged = || daemon.keg(["logs", "web"]).stdout;
    keg_fixtures::wait_until("the log has the client", keg_fixtures::wait::PATIENCE, || {
        logged().lines().any(|line| line.starts_with("192.0.2.2 ") && line.contains("/index.html"))
    });
}
