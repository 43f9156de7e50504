//! A registry that takes nothing but tokens – Debian's docker-registry with a token server before it
//! (distribution project, "Token Authentication").

use keg_fixtures::{BadRegistry, Daemon, Image, Outcome, TokenRegistry, requires};

/// "me:s3cret-word"
const BASIC: &str = "Basic bWU6czNjcmV0LXdvcmQ=";

fn login(daemon: &Daemon, registry: &str, password: &str) -> Outcome {
    daemon.keg_with_input(password, ["login", "-u", "me", "--password-stdin", registry])
}

/// A daemon that holds [`Image::busybox`] under `name`.
fn holding(name: &str) -> Daemon {
    let registry = BadRegistry::new(Image::busybox(), |_, right| right);
    let daemon = Daemon::new();
    let reference = format!("{}/it", registry.address());
    daemon.pull(&reference);
    let _ = daemon.keg(["tag", &reference, name]).success();
    daemon
}

#[test]
fn who_is_logged_in_pushes_and_pulls_by_tokens_and_nobody_else_does() {
    requires!(root, registry, openssl);
    let registry = TokenRegistry::new(BASIC);
    let [image, other] = ["team/it:1", "other/it:1"].map(|n| format!("{}/{n}", registry.address()));
    let here = holding(&image);

    let anonymous = here.keg(["push", "-q", &image]);
    let wrong = login(&here, &registry.address(), "wr0ng-word");
    let right = login(&here, &registry.address(), "s3cret-word");
    let pushed = here.keg(["push", "-q", &image]).success();
    let _ = here.keg(["tag", &image, &other]).success();
    let mounted = here.keg(["push", &other]).success();

    assert_ne!(anonymous.exit_code, 0);
    assert!(anonymous.stderr.contains("keg login"), "{anonymous:?}");
    assert!(
        wrong.exit_code == 1 && wrong.stderr.contains("refuses these credentials"),
        "{wrong:?}"
    );
    assert_eq!(right.success().stdout, "Login Succeeded\n");
    assert_eq!(pushed.stdout.trim(), image);
    assert!(mounted.stdout.contains("Mounted from another repository"), "{mounted:?}");
    let asked = registry.asked().concat();
    assert!(asked.contains("service=it-service"), "{asked}");
    assert!(asked.contains("scope=repository%3Ateam%2Fit%3Apull%2Cpush"), "{asked}");

    let elsewhere = Daemon::new();
    let refused = elsewhere.keg(["pull", "-q", &image]);
    assert!(refused.exit_code != 0 && refused.stderr.contains("keg login"), "{refused:?}");
    let _ = login(&elsewhere, &registry.address(), "s3cret-word").success();
    let ran = elsewhere.keg(["run", "--rm", "-q", &image, "echo", "well"]).success();
    assert_eq!(ran.stdout, "well\n");
    assert_eq!(elsewhere.inspect(&image)["Id"], Image::busybox().config.digest);
    let told = format!("{}{}{:?}", here.log(), elsewhere.log(), (anonymous, wrong, refused));
    for secret in ["s3cret-word", "wr0ng-word", BASIC.trim_start_matches("Basic ")] {
        assert!(!told.contains(secret), "{secret} is told");
    }
}
