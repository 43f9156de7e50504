//! What runs: the image's configuration and the request become one plan, by Docker's rules.

use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;

use crate::model::{ContainerConfig, Entrypoint, ProcessPlan};
use crate::signal::{Signal, UnknownSignal};

/// `PATH` where neither image nor request has one.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why image and request do not make a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Neither names a program.
    #[error("no command: neither the request nor image {image:?} says what to run")]
    NoCommand {
        /// As people typed it.
        image: String,
    },
    /// A text holds what the kernel cannot take.
    #[error("{what} {text:?} holds a NUL character")]
    Nul {
        /// Which field.
        what: &'static str,
        /// Its text.
        text: String,
    },
    /// An entry of the environment has no name.
    #[error("environment entry {entry:?} has no name before \"=\"")]
    EnvWithoutName {
        /// The entry.
        entry: String,
    },
    /// A relative working directory.
    #[error("working directory {path:?} is not an absolute path")]
    RelativeWorkingDir {
        /// What was given.
        path: String,
    },
    /// The image names a signal that does not exist.
    #[error("the stop signal of image {image:?} is unknown")]
    StopSignal {
        /// As people typed it.
        image: String,
        /// Why.
        #[source]
        source: UnknownSignal,
    },
}

/// Decides what runs in a container called `hostname`.
///
/// # Errors
/// [`PlanError`] if there is nothing to run, or a part of it cannot be passed to a process.
pub fn plan(
    image: &ImageConfig,
    config: &ContainerConfig,
    hostname: &str,
) -> Result<ProcessPlan, PlanError> {
    let Arguments { args, entrypoint_count } = arguments(image, config);
    if args.first().is_none_or(String::is_empty) {
        return Err(PlanError::NoCommand { image: config.image.clone() });
    }
    let env = environment(image, config, hostname)?;
    for (what, texts) in [("argument", &args), ("environment entry", &env)] {
        if let Some(text) = texts.iter().find(|text| text.contains('\0')) {
            return Err(PlanError::Nul { what, text: text.clone() });
        }
    }
    Ok(ProcessPlan {
        args,
        entrypoint_count,
        env,
        working_dir: working_dir(image, config)?,
        user: first_of(&config.user, image.user().as_deref()),
        stop_signal: stop_signal(image, config)?,
    })
}

/// What runs, and how much of it is the entry point.
struct Arguments {
    args: Vec<String>,
    entrypoint_count: usize,
}

/// Docker's rule: default arguments belong to the entry point that they were written for. Who
/// gives an entry point of their own, or takes it away, does without the image's arguments.
fn arguments(image: &ImageConfig, config: &ContainerConfig) -> Arguments {
    let own = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let (mut args, default_command) = match &config.entrypoint {
        Entrypoint::FromImage => (own(image.entrypoint()), own(image.cmd())),
        Entrypoint::Cleared => (Vec::new(), Vec::new()),
        Entrypoint::Own(entrypoint) => (entrypoint.clone(), Vec::new()),
    };
    let entrypoint_count = args.len();
    if config.command.is_empty() {
        args.extend(default_command);
    } else {
        args.extend(config.command.iter().cloned());
    }
    Arguments { args, entrypoint_count }
}

/// Defaults, then the image's, then the request's; the last of a name wins and keeps its place.
fn environment(
    image: &ImageConfig,
    config: &ContainerConfig,
    hostname: &str,
) -> Result<Vec<String>, PlanError> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    let of_image = image.env().as_deref().unwrap_or_default();
    for entry in of_image.iter().chain(&config.env) {
        set_env(&mut env, entry)?;
    }
    Ok(env)
}

/// Sets `NAME=value`, or removes `NAME`.
pub(crate) fn set_env(env: &mut Vec<String>, entry: &str) -> Result<(), PlanError> {
    let name = entry.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(PlanError::EnvWithoutName { entry: entry.to_owned() });
    }
    let at = env.iter().position(|present| present.split('=').next() == Some(name));
    match (at, entry.contains('=')) {
        (Some(at), true) => env[at] = entry.to_owned(),
        (None, true) => env.push(entry.to_owned()),
        (Some(at), false) => drop(env.remove(at)),
        (None, false) => {}
    }
    Ok(())
}

/// An image's relative directory is taken from the root, as Docker does; a request's is refused.
fn working_dir(image: &ImageConfig, config: &ContainerConfig) -> Result<PathBuf, PlanError> {
    let given = &config.working_dir;
    if given.contains('\0') {
        return Err(PlanError::Nul { what: "working directory", text: given.clone() });
    }
    if !given.is_empty() && !given.starts_with('/') {
        return Err(PlanError::RelativeWorkingDir { path: given.clone() });
    }
    Ok(PathBuf::from("/").join(first_of(given, image.working_dir().as_deref())))
}

fn stop_signal(image: &ImageConfig, config: &ContainerConfig) -> Result<Signal, PlanError> {
    let of_image = image.stop_signal().as_deref().filter(|text| !text.is_empty());
    match (config.stop_signal, of_image) {
        (Some(signal), _) => Ok(signal),
        (None, Some(text)) => Signal::parse(text)
            .map_err(|source| PlanError::StopSignal { image: config.image.clone(), source }),
        (None, None) => Ok(Signal::TERM),
    }
}

fn first_of(given: &str, of_image: Option<&str>) -> String {
    if given.is_empty() { of_image.unwrap_or_default() } else { given }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let mut image = ImageConfig::default();
        image.set_entrypoint(Some(strings(entrypoint)));
        image.set_cmd(Some(strings(cmd)));
        image
    }

    #[test]
    fn entry_point_and_command_combine_by_dockers_table() {
        use Entrypoint::{Cleared, FromImage, Own};
        let own = || Own(strings(&["mine"]));
        type Row = (Words, Words, Entrypoint, Words, Option<Words>);
        type Words = &'static [&'static str];
        let table: [Row; 9] = [
            (&[], &["sh"], FromImage, &[], Some(&["sh"])),
            (&[], &["sh"], FromImage, &["ls", "-l"], Some(&["ls", "-l"])),
            (&["init"], &["sh"], FromImage, &[], Some(&["init", "sh"])),
            (&["init"], &["sh"], FromImage, &["ls"], Some(&["init", "ls"])),
            (&["init"], &["sh"], own(), &[], Some(&["mine"])),
            (&["init"], &["sh"], own(), &["ls"], Some(&["mine", "ls"])),
            (&["init"], &["sh"], Cleared, &["ls"], Some(&["ls"])),
            (&["init"], &["sh"], Cleared, &[], None),
            (&[], &[], FromImage, &[], None),
        ];
        for (entrypoint, cmd, given, command, expected) in table {
            let config = ContainerConfig {
                entrypoint: given.clone(),
                command: strings(command),
                ..ContainerConfig::default()
            };

            let outcome = plan(&image(entrypoint, cmd), &config, "box").map(|plan| plan.args).ok();

            assert_eq!(
                outcome,
                expected.map(strings),
                "{entrypoint:?} {cmd:?} {given:?} {command:?}"
            );
        }
    }

    #[test]
    fn the_last_of_a_name_wins_and_a_bare_name_removes() {
        let mut image = image(&[], &["sh"]);
        image.set_env(Some(strings(&["PATH=/bin", "A=1", "B=2"])));
        let config = ContainerConfig {
            env: strings(&["B=3", "A", "C=x=y", "C=z", "D="]),
            tty: true,
            ..ContainerConfig::default()
        };

        let plan = plan(&image, &config, "box").unwrap();

        let expected = ["PATH=/bin", "HOSTNAME=box", "TERM=xterm", "B=3", "C=z", "D="];
        assert_eq!(plan.env, strings(&expected));
    }

    #[test]
    fn an_entry_without_a_name_or_with_nul_is_refused() {
        for entry in ["=x", "", "A=\0"] {
            let config = ContainerConfig { env: strings(&[entry]), ..ContainerConfig::default() };

            assert!(plan(&image(&[], &["sh"]), &config, "box").is_err(), "{entry:?}");
        }
    }

    #[test]
    fn working_directory_user_and_signal_come_from_the_request_first() {
        let mut image = image(&[], &["sh"]);
        image.set_working_dir(Some("srv".into()));
        image.set_user(Some("web".into()));
        image.set_stop_signal(Some("SIGQUIT".into()));
        let config = ContainerConfig {
            user: "7:8".into(),
            stop_signal: Some(Signal::KILL),
            ..ContainerConfig::default()
        };

        let of_image = plan(&image, &ContainerConfig::default(), "box").unwrap();
        let of_request = plan(&image, &config, "box").unwrap();

        assert_eq!(of_image.working_dir, PathBuf::from("/srv"));
        assert_eq!((of_image.user.as_str(), of_image.stop_signal.number()), ("web", 3));
        assert_eq!((of_request.user.as_str(), of_request.stop_signal.number()), ("7:8", 9));
    }

    #[test]
    fn a_relative_working_directory_of_a_request_is_refused() {
        let config = ContainerConfig { working_dir: "srv".into(), ..ContainerConfig::default() };

        assert!(matches!(
            plan(&image(&[], &["sh"]), &config, "box"),
            Err(PlanError::RelativeWorkingDir { .. })
        ));
    }
}
