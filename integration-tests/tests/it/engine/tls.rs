//! kegd over TCP: mutual TLS, and nobody else.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, Outcome, Scratch, programs, requires};

/// Two authorities with the same name, and what they have signed.
struct Certificates {
    scratch: Scratch,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self { scratch: Scratch::new() };
        for authority in ["ca", "stranger"] {
            let constraints = "basicConstraints=critical,CA:TRUE";
            let key = certificates.key(authority);
            let out = certificates.file(authority);
            let subject = format!("/CN=Authority {authority}");
            certificates.openssl(&[
                "req",
                "-x509",
                "-key",
                &key,
                "-days",
                "2",
                "-subj",
                &subject,
                "-addext",
                constraints,
                "-out",
                &out,
            ]);
        }
        certificates.sign("kegd", "ca", "2");
        certificates.sign("right", "ca", "2");
        certificates.sign("foreign", "stranger", "2");
        // It ended before it began.
        certificates.sign("expired", "ca", "-1");
        certificates
    }

    /// Makes a key and a certificate for 127.0.0.1.
    fn sign(&self, name: &str, authority: &str, days: &str) {
        let key = self.key(name);
        let request = self.path(&format!("{name}.csr"));
        self.openssl(&["req", "-new", "-key", &key, "-subj", "/CN=it", "-out", &request]);
        let names = self.scratch.file("names.cnf", "subjectAltName=IP:127.0.0.1\n");
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &self.file(authority),
            "-CAkey",
            &self.path(&format!("{authority}.key")),
            "-CAcreateserial",
            "-days",
            days,
            "-extfile",
            &names.display().to_string(),
            "-out",
            &self.file(name),
        ]);
    }

    fn key(&self, name: &str) -> String {
        let path = self.path(&format!("{name}.key"));
        let curve = "ec_paramgen_curve:P-256";
        self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &path]);
        path
    }

    fn openssl(&self, args: &[&str]) {
        let openssl = programs::installed("openssl").expect("openssl");
        let _ = Outcome::of(Command::new(openssl).args(args), PATIENCE).success();
    }

    fn file(&self, name: &str) -> String {
        self.path(&format!("{name}.pem"))
    }

    fn path(&self, name: &str) -> String {
        self.scratch.join(name).display().to_string()
    }

    /// Makes a directory as `KEG_CERT_PATH` names one.
    fn directory(&self, name: &str, authority: &str) -> PathBuf {
        let dir = self.scratch.join(format!("{name}-of-{authority}"));
        std::fs::create_dir_all(&dir).unwrap();
        for (from, to) in [
            (self.file(authority), "ca.pem"),
            (self.file(name), "cert.pem"),
            (self.path(&format!("{name}.key")), "key.pem"),
        ] {
            std::fs::copy(from, dir.join(to)).unwrap();
        }
        dir
    }
}

/// A daemon that serves TCP beside its unix socket; returns HOST:PORT too.
fn daemon_over_tcp(certificates: &Certificates, server: &str) -> (Daemon, String) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let toml = format!(
        "[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
        certificates.file("ca"),
        certificates.file(server),
        certificates.path(&format!("{server}.key")),
    );
    let daemon = Daemon::listening(&toml, &format!("tcp://{address}"));
    (daemon, address)
}

/// `keg ARGS` against `tcp://ADDRESS` with what one directory holds.
fn keg(daemon: &Daemon, address: &str, directory: &PathBuf, args: &[&str]) -> Outcome {
    let mut command = daemon.keg_command(args);
    command.env("KEG_HOST", format!("tcp://{address}")).env("KEG_CERT_PATH", directory);
    Outcome::of(&mut command, PATIENCE)
}

#[test]
fn the_right_certificate_is_let_in_by_variables_and_by_flags() {
    requires!(root, openssl);
    let certificates = Certificates::new();
    let (daemon, address) = daemon_over_tcp(&certificates, "kegd");
    let right = certificates.directory("right", "ca");

    let _ = keg(&daemon, &address, &right, &["ps"]).success();
    // A body that is sent, and one that is streamed back.
    let _ = keg(&daemon, &address, &right, &["volume", "create", "over-tcp"]).success();
    let listed = daemon.keg(["volume", "ls", "-q"]).success().stdout;
    assert_eq!(listed.trim(), "over-tcp");

    let host = format!("tcp://{address}");
    let (ca, cert) = (certificates.file("ca"), certificates.file("right"));
    let key = certificates.path("right.key");
    let flags = [
        "--host",
        &host,
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
        "version",
    ];
    let _ = daemon.keg(flags).success();

    // Asked for, and not to be had.
    let mut command = daemon.keg_command(["ps"]);
    let refused = Outcome::of(command.env("KEG_TLS_VERIFY", "1"), PATIENCE);
    assert_eq!(refused.exit_code, 125, "{refused:?}");
    assert!(refused.stderr.contains("--tlsverify asks for TLS"), "{refused:?}");
}

#[test]
fn every_other_certificate_is_refused_with_what_is_wrong_with_it() {
    requires!(root, openssl);
    let certificates = Certificates::new();
    let (daemon, address) = daemon_over_tcp(&certificates, "kegd");
    let table = [
        ("foreign", "ca", "refuses our certificate, which is of another authority"),
        ("expired", "ca", "refuses our certificate, which has expired"),
        ("right", "stranger", "its certificate is of an authority that is not trusted"),
    ];
    for (name, authority, reason) in table {
        let directory = certificates.directory(name, authority);

        let refused = keg(&daemon, &address, &directory, &["ps"]);

        assert_eq!(refused.exit_code, 1, "{name}: {refused:?}");
        assert!(refused.stderr.contains(reason), "{name}: {refused:?}");
        assert!(refused.stderr.contains("try: "), "{name}: {refused:?}");
    }
    let none = keg(&daemon, &address, &certificates.scratch.join("nothing"), &["ps"]);
    assert_eq!(none.exit_code, 1, "{none:?}");
    assert!(
        none.stderr.contains("nothing/ca.pem") && none.stderr.contains("--tlscacert"),
        "{none:?}"
    );
    let log = daemon.log();
    assert!(log.matches("a client over TCP is refused").count() >= 3, "{log}");
}

#[test]
fn an_expired_certificate_of_the_daemon_is_told() {
    requires!(root, openssl);
    let certificates = Certificates::new();
    let (daemon, address) = daemon_over_tcp(&certificates, "expired");
    let right = certificates.directory("right", "ca");

    let refused = keg(&daemon, &address, &right, &["ps"]);

    assert!(refused.stderr.contains("its certificate has expired"), "{refused:?}");
}

#[test]
fn a_client_without_a_certificate_or_without_tls_gets_no_answer() {
    requires!(root, openssl);
    let certificates = Certificates::new();
    let (daemon, address) = daemon_over_tcp(&certificates, "kegd");

    let openssl = programs::installed("openssl").expect("openssl");
    let mut command = Command::new(openssl);
    command.args(["s_client", "-connect", &address, "-alpn", "h2", "-ign_eof"]);
    let without = Outcome::of(command.args(["-CAfile", &certificates.file("ca")]), PATIENCE);
    assert!(without.stderr.contains("certificate required"), "{without:?}");

    let mut plain = TcpStream::connect(&address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // Reset or closed: either way what came is at most a TLS alert.
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");

    // Nobody is held up by those who say nothing.
    let _silent: Vec<_> = (0..8).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let right = certificates.directory("right", "ca");
    let _ = keg(&daemon, &address, &right, &["ps"]).success();
}

#[test]
fn kegd_without_certificates_does_not_serve_tcp() {
    let scratch = Scratch::new();
    let config = scratch.file("kegd.toml", "[tls]\nca = \"/nonexistent/ca.pem\"\n");
    let mut command = Command::new(programs::ours("kegd"));
    command.arg("--config").arg(&config).args(["--listen", "tcp://127.0.0.1:1"]);

    let refused = Outcome::of(&mut command, PATIENCE);

    assert_eq!(refused.exit_code, 1, "{refused:?}");
    for part in ["tcp://127.0.0.1:1", "mutual TLS", "--tls-cert", "--tls-key"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    assert!(!refused.stderr.contains("--tls-ca-cert"), "{refused:?}");
}
