//! What labels containers get, and what becomes of the files that they are given.

use super::*;
use crate::spec::tests::record;

const CONTEXTS_FILE: &str = "process = \"system_u:system_r:container_t:s0\"\n\
    file = \"system_u:object_r:container_file_t:s0\"\n";

fn selinux() -> Selinux {
    let policy = Policy::parse(CONTEXTS_FILE).unwrap();
    Selinux { standing: Standing::On(Box::new(policy)), warning: None, levels: Arc::default() }
}

fn without(standing: Standing) -> Selinux {
    Selinux { standing, warning: None, levels: Arc::default() }
}

fn asking(options: &[&str]) -> HostConfig {
    let selinux_options = options.iter().map(|text| (*text).to_owned()).collect();
    HostConfig { selinux_options, ..HostConfig::default() }
}

fn chosen(selinux: &Selinux, host: &HostConfig) -> Chosen {
    selinux.choose(host, &[]).unwrap().unwrap()
}

/// The type and the categories of both labels.
fn parts(labels: &SelinuxLabels) -> [(String, Option<context::Pair>); 2] {
    [&labels.process, &labels.mount].map(|text| {
        let context = Context::parse(text).unwrap();
        (context.kind.clone(), context.categories())
    })
}

#[test]
fn each_container_has_categories_that_no_other_has_for_processes_and_files_alike() {
    let selinux = selinux();

    let (one, other) = (chosen(&selinux, &asking(&[])), chosen(&selinux, &asking(&[])));

    let [process, file] = parts(&one.labels);
    assert_eq!((process.0.as_str(), file.0.as_str()), ("container_t", "container_file_t"));
    assert!(process.1.is_some() && process.1 == file.1);
    assert_ne!(parts(&other.labels)[0].1, process.1);
}

#[test]
fn categories_are_taken_until_the_container_is_forgotten() {
    let selinux = selinux();
    let made = chosen(&selinux, &asking(&[]));
    let mut container = record();
    container.selinux = Some(made.labels.clone());
    let pair = container.categories().unwrap();
    selinux.adopt(&container);
    drop(made);

    let others: Vec<_> = (0..1000).map(|_| chosen(&selinux, &asking(&[]))).collect();

    assert!(others.iter().all(|other| parts(&other.labels)[0].1 != Some(pair)));
    drop(others);
    selinux.release(&container);
    assert_eq!(format!("{:?}", selinux.levels), format!("{:?}", Levels::default()));
}

#[test]
fn a_label_is_lifted_for_who_is_let_out_anyway() {
    let selinux = selinux();
    let table = [
        asking(&["disable"]),
        asking(&["type:x_t", "disable"]),
        HostConfig { privileged: true, ..HostConfig::default() },
        HostConfig { pid_mode: NamespaceMode::Host, ..HostConfig::default() },
        HostConfig { ipc_mode: NamespaceMode::Host, ..HostConfig::default() },
    ];
    for host in table {
        let labels = chosen(&selinux, &host).labels;

        assert_eq!(labels.process, "", "{host:?}");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1022,c1023");
    }
}

#[test]
fn who_joins_another_has_its_label_and_two_different_ones_are_refused() {
    let selinux = selinux();
    let (one, two) = (chosen(&selinux, &asking(&[])).labels, chosen(&selinux, &asking(&[])).labels);
    let lifted = SelinuxLabels { process: String::new(), mount: "m".to_owned() };
    let joined = |labels: &[SelinuxLabels]| {
        selinux.choose(&asking(&[]), labels).map(|chosen| chosen.unwrap().labels)
    };

    assert_eq!(joined(std::slice::from_ref(&one)).unwrap(), one);
    assert_eq!(joined(&[one.clone(), one.clone()]).unwrap(), one);
    assert!(joined(&[one.clone(), two]).unwrap_err().to_string().contains("different labels"));
    assert_eq!(parts(&joined(&[lifted]).unwrap())[0].0, "container_t");
}

#[test]
fn options_change_the_policys_labels_part_by_part() {
    let policy = Policy::parse(CONTEXTS_FILE).unwrap();
    let (mut process, mut file) = (policy.process, policy.file);
    for option in ["user:u", "role:r", "type:spc_t", "level:s0:c5,c9", "filetype:x_t"] {
        change(&mut process, &mut file, option).unwrap();
    }

    assert_eq!(process.to_string(), "u:r:spc_t:s0:c5,c9");
    assert_eq!(file.to_string(), "u:object_r:x_t:s0:c5,c9");
    for bad in ["colour:red", "type:", "type", ""] {
        let error = change(&mut process, &mut file, bad).unwrap_err().to_string();
        assert!(error.contains("give user:"), "{bad}: {error}");
    }
}

#[test]
fn a_label_that_cannot_be_had_is_refused_and_not_left_out() {
    let unfit = Standing::Unfit { problem: "the policy has no context".to_owned() };
    let table = [
        (Standing::Absent, "SELinux is not enabled"),
        (Standing::SwitchedOff, "switched off in kegd.toml"),
        (unfit, "the policy has no context"),
    ];
    for (standing, expected) in table {
        let selinux = without(standing);

        let error = selinux.choose(&asking(&["type:x"]), &[]).unwrap_err().to_string();

        assert!(error.contains(expected), "{error}");
        assert!(selinux.choose(&asking(&["disable"]), &[]).unwrap().is_none());
        assert!(selinux.choose(&asking(&[]), &[]).unwrap().is_none());
        let mut container = record();
        container.selinux = Some(SelinuxLabels::default());
        assert_eq!(selinux.of(&container).unwrap(), None);
    }
}

#[test]
fn without_selinux_nothing_is_relabelled_whatever_was_asked_for() {
    let selinux = without(Standing::Absent);

    // Not even a look at whether it may be.
    for wanted in [Relabel::None, Relabel::Shared, Relabel::Private] {
        selinux.relabel_source(&record(), Path::new("/nonexistent"), wanted).unwrap();
        selinux.relabel_volume(&record(), Path::new("/nonexistent"), wanted).unwrap();
    }
}

#[test]
fn a_root_gets_its_label_with_the_mount_and_quoted() {
    let selinux = selinux();
    let mut container = record();
    let mount = "system_u:object_r:container_file_t:s0:c1,c2".to_owned();
    container.selinux = Some(SelinuxLabels { process: String::new(), mount });
    let mut mounts = [keg_store::Mount {
        type_: "overlay".to_owned(),
        source: PathBuf::from("overlay"),
        options: vec!["index=off".to_owned()],
    }];

    selinux.label_root(&container, &mut mounts).unwrap();

    let label = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
    assert_eq!(mounts[0].options, ["index=off", label]);
}

#[test]
fn the_hosts_files_say_which_policy_and_which_contexts() {
    assert_eq!(policy_name("# x\nSELINUX=enforcing\nSELINUXTYPE=default \n"), "default");
    assert_eq!(policy_name(""), DEFAULT_POLICY);
    let policy = Policy::parse("process = \"a:b:c\"\nfile=\"d:e:f:s1\"\n").unwrap();
    assert_eq!(
        (policy.process.to_string(), policy.file.to_string()),
        ("a:b:c".into(), "d:e:f:s1".into())
    );
    assert_eq!(Policy::parse("").unwrap().process.to_string(), DEFAULT_PROCESS);
    assert!(Policy::parse("process = \"nonsense\"").is_err());
}
