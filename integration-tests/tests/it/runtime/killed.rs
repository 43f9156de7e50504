//! A death at any step of create, start, exec and delete, of the runtime or of the process it makes:
//! what is left is what `delete --force` removes, and nobody else is harmed.
//!
//! Each test tries some places, spread over all; `KEG_TEST_KILLS` says how many.

use std::process::Command;

use keg_fixtures::trace::{self, Victim};
use keg_fixtures::wait::PATIENCE;
use keg_fixtures::{Bundle, Container, Runtime, Status, requires, wait_until};

/// No program comes so far.
const NEVER: usize = usize::MAX;

/// Places among `stops`, from the first to the last.
fn places(stops: usize) -> impl Iterator<Item = usize> {
    let kills = std::env::var("KEG_TEST_KILLS").ok().and_then(|text| text.parse().ok());
    let kills: usize = kills.unwrap_or(14).clamp(2, stops.max(2));
    (0..kills).map(move |kill| 1 + kill * stops.saturating_sub(1) / (kills - 1))
}

fn bundle(id: &str) -> Bundle {
    Bundle::probe().args(["pause"]).set("/linux/cgroupsPath", format!("/{id}"))
}

fn create_command(runtime: &Runtime, bundle: &Bundle, id: &str) -> Command {
    let mut command = runtime.command(["create", "--bundle"]);
    command.arg(bundle.path()).arg(id);
    command
}

/// Whether anything of the container is to be seen.
fn is_gone(runtime: &Runtime, id: &str) -> bool {
    !runtime.root().join(id).exists() && keg_fixtures::runtime::cgroups_of(id).is_empty()
}

/// Lets `delete --force` remove what is left, and looks whether it did.
#[track_caller]
fn remove(runtime: &Runtime, id: &str, place: usize) {
    let outcome = runtime.call(["delete", "--force", id]);
    assert_eq!(outcome.exit_code, 0, "killed at {place}: {outcome:?}");
    assert!(is_gone(runtime, id), "killed at {place}: something is left");
}

#[test]
fn a_create_that_is_killed_leaves_nothing_that_force_does_not_remove() {
    let host = requires!(root, our_runtime);
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let bundle = bundle(&id);
    let guard = runtime.guard(&id);
    let create =
        |kill_at| trace::run(create_command(&runtime, &bundle, &id), Victim::Program, kill_at);
    let whole = create(NEVER);
    assert_eq!(whole.exit_code, 0);
    remove(&runtime, &id, NEVER);

    for place in places(whole.stops) {
        let killed = create(place);

        assert!(matches!(killed.exit_code, 0 | 137), "{killed:?}");
        remove(&runtime, &id, place);
    }
    drop(guard);
}

#[test]
fn an_init_that_is_killed_fails_its_create_which_leaves_nothing() {
    let host = requires!(root, our_runtime);
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let bundle = bundle(&id);
    let guard = runtime.guard(&id);
    let create =
        |kill_at| trace::run(create_command(&runtime, &bundle, &id), Victim::Child, kill_at);
    let whole = create(NEVER);
    assert_eq!(whole.exit_code, 0);
    remove(&runtime, &id, NEVER);

    let mut failed = 0;
    for place in places(whole.stops) {
        let killed = create(place);

        // At its last steps it is ready, and the create may be over before it dies.
        if killed.exit_code != 0 {
            assert_eq!(killed.exit_code, 1, "{killed:?}");
            assert!(is_gone(&runtime, &id), "killed at {place}: something is left");
            failed += 1;
        }
        remove(&runtime, &id, place);
    }
    assert!(failed > 0, "no create has seen that its init died");
    drop(guard);
}

#[test]
fn a_start_that_is_killed_leaves_a_container_that_is_created_or_runs() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let start = |container: &Container, kill_at| {
        trace::run(runtime.command(["start", container.id()]), Victim::Program, kill_at)
    };
    let whole = start(&runtime.create(Bundle::probe().args(["pause"])), NEVER);
    assert_eq!(whole.exit_code, 0);

    for place in places(whole.stops) {
        let container = runtime.create(Bundle::probe().args(["pause"]));

        let killed = start(&container, place);

        assert!(matches!(killed.exit_code, 0 | 137), "{killed:?}");
        let status = container.state().status;
        assert!(matches!(status, Status::Created | Status::Running), "at {place}: {status:?}");
        if status == Status::Created {
            // Unless it was told to just before, and is about to: that is no start either.
            let again = container.try_start();
            let runs = again.error.contains("already running");
            assert!(again.exit_code == 0 || runs, "killed at {place}: {again:?}");
            container.wait_for(Status::Running, PATIENCE);
        }
        remove(&runtime, container.id(), place);
    }
}

#[test]
fn an_exec_that_is_killed_harms_nobody_else() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let container = runtime.create(Bundle::probe().args(["pause"]));
    container.start();
    let exec = |victim, kill_at| {
        let command = runtime.command(["exec", container.id(), "/bin/true"]);
        trace::run(command, victim, kill_at)
    };

    for victim in [Victim::Program, Victim::Child] {
        let whole = exec(victim, NEVER);
        assert_eq!(whole.exit_code, 0);
        for place in places(whole.stops) {
            let killed = exec(victim, place);

            let expected: &[i32] = match victim {
                Victim::Program => &[0, 137],
                // Before its program runs the runtime says so, with runc's code; after that it is
                // the program that was killed.
                Victim::Child => &[0, 137, 255],
            };
            assert!(expected.contains(&killed.exit_code), "{victim:?} at {place}: {killed:?}");
            let next = container.exec(&["/bin/echo", "well"]);
            assert_eq!(next.stdout, "well\n", "{victim:?} at {place}: {next:?}");
        }
    }
    assert_eq!(container.state().status, Status::Running);
}

#[test]
fn a_delete_that_is_killed_is_finished_by_another() {
    let host = requires!(root, our_runtime);
    let runtime = host.runtime();
    let ended = || {
        let container = runtime.create(Bundle::probe().args(["exit", "0"]));
        let _ = container.start_and_wait();
        container
    };
    let delete = |container: &Container, kill_at| {
        trace::run(runtime.command(["delete", container.id()]), Victim::Program, kill_at)
    };
    let whole = delete(&ended(), NEVER);
    assert_eq!(whole.exit_code, 0);

    for place in places(whole.stops) {
        let container = ended();

        let killed = delete(&container, place);

        assert!(matches!(killed.exit_code, 0 | 137), "{killed:?}");
        remove(&runtime, container.id(), place);
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing_that_force_does_not_remove() {
    let host = requires!(root, our_runtime);
    let (runtime, id) = (host.runtime(), Runtime::new_id());
    let bundle = bundle(&id).args(["exit", "7"]);
    let guard = runtime.guard(&id);
    let run = |kill_at| {
        let mut command = runtime.command(["run", "--bundle"]);
        command.arg(bundle.path()).arg(&id);
        trace::run(command, Victim::Program, kill_at)
    };
    let whole = run(NEVER);
    assert_eq!(whole.exit_code, 7);
    assert!(is_gone(&runtime, &id));

    for place in places(whole.stops) {
        let killed = run(place);

        assert!(matches!(killed.exit_code, 7 | 137), "{killed:?}");
        // Where the program runs already, it is not the runtime's any more.
        wait_until("the container is removed", PATIENCE, || {
            runtime.call(["delete", "--force", &id]).exit_code == 0
        });
        assert!(is_gone(&runtime, &id), "killed at {place}: something is left");
    }
    drop(guard);
}
