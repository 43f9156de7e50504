//! MariaDB, as Debian has it: configured by `-e`, its data on a volume, which outlives every
//! container that has it.

use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Daemon, RootArchive, requires, wait_until};

/// Makes the data directory if it is empty, sets what the environment says, and becomes the server.
const ENTRYPOINT: &str = r#"#!/bin/busybox sh
set -e
options="--no-defaults --datadir=/data --socket=/tmp/db.sock --skip-networking --tmpdir=/tmp
 --innodb-buffer-pool-size=8M --innodb-log-file-size=4M --performance-schema=OFF"
if [ ! -d /data/mysql ]; then
    {
        printf 'create database mysql;\nuse mysql;\nset @auth_root_socket=NULL;\n'
        /bin/busybox cat /usr/share/mysql/mysql_system_tables.sql \
            /usr/share/mysql/mysql_system_tables_data.sql
    } | /usr/sbin/mariadbd $options --bootstrap
fi
{
    printf "create database if not exists %s;\n" "$MARIADB_DATABASE"
    printf "alter user root@localhost identified by '%s';\n" "$MARIADB_ROOT_PASSWORD"
} >/tmp/init.sql
exec /usr/sbin/mariadbd $options --init-file=/tmp/init.sql
"#;

/// What the image says of its containers.
const CHANGES: [&str; 4] = [
    r#"ENTRYPOINT ["/bin/busybox", "sh", "/entrypoint"]"#,
    "USER mysql",
    "VOLUME /data",
    "ENV MARIADB_DATABASE=test",
];

/// The password and the database, as a user gives them.
const CONFIGURED: [&str; 4] = ["-e", "MARIADB_ROOT_PASSWORD=secret", "-e", "MARIADB_DATABASE=shop"];

fn import_mariadb(daemon: &Daemon) {
    let archive = daemon.scratch().join("mariadb.tar");
    RootArchive::new(&archive)
        .program("mariadbd")
        .program("mariadb")
        .installed("/bin/busybox")
        .installed("/usr/share/mysql/mysql_system_tables.sql")
        .installed("/usr/share/mysql/mysql_system_tables_data.sql")
        .installed("/usr/share/mysql/english/errmsg.sys")
        .installed("/usr/share/mysql/charsets/Index.xml")
        .text("entrypoint", ENTRYPOINT)
        .text("etc/passwd", "root:x:0:0::/:/\nmysql:x:999:999::/data:/\n")
        .text("etc/group", "root:x:0:\nmysql:x:999:\n")
        .directory("data", 0o700, 999)
        .finish();
    let mut arguments = vec!["import"];
    arguments.extend(CHANGES.iter().flat_map(|change| ["-c", change]));
    arguments.extend([archive.to_str().unwrap(), "mariadb:1"]);
    let _ = daemon.keg(arguments).success();
}

/// Runs statements in the database that was asked for, as root with the password that was given.
fn ask(daemon: &Daemon, container: &str, password: &str, sql: &str) -> keg_fixtures::Outcome {
    let password = format!("-p{password}");
    let client = [
        "exec",
        container,
        "/usr/bin/mariadb",
        "--no-defaults",
        "-S",
        "/tmp/db.sock",
        "-u",
        "root",
    ];
    daemon.keg(client.iter().chain(&[password.as_str(), "-N", "-B", "shop", "-e", sql]))
}

#[track_caller]
fn start_mariadb(daemon: &Daemon, name: &str) {
    let flags = ["--name", name, "-v", "orders:/data"];
    let _ = daemon.run_detached(flags.iter().chain(&CONFIGURED).chain(&["mariadb:1"]));
    // Its first start makes the tables.
    wait_until("MariaDB answers", 3 * PATIENCE, || {
        ask(daemon, name, "secret", "select 1").stdout == "1\n"
    });
}

#[test]
fn data_on_a_volume_outlives_a_server_that_is_killed_and_removed() {
    requires!(root, mariadb);
    let daemon = Daemon::new();
    import_mariadb(&daemon);
    start_mariadb(&daemon, "first");
    let told = ask(
        &daemon,
        "first",
        "secret",
        "create table orders (id int primary key, what text);
         insert into orders values (1, 'barrel'), (2, 'keg');
         select count(*) from orders",
    );
    assert_eq!(told.success().stdout, "2\n");
    let refused = ask(&daemon, "first", "wrong", "select 1");
    assert!(refused.stderr.contains("Access denied"), "{refused:?}");

    let _ = daemon.keg(["kill", "first"]).success();
    let _ = daemon.keg(["wait", "first"]).success();
    let _ = daemon.keg(["rm", "-v", "first"]).success();
    start_mariadb(&daemon, "second");

    let told = ask(&daemon, "second", "secret", "select what from orders order by id");
    assert_eq!(told.success().stdout, "barrel\nkeg\n");
    // A server that may end as it likes leaves no less.
    let _ = daemon.keg(["stop", "-t", "60", "second"]).success();
    assert_eq!(daemon.inspect("second")["State"]["ExitCode"], 0);
}
