//! `--debug-shell`: into the container of a step that failed.

use keg_fixtures::requires;

use super::{PATIENT, Project};

fn on_terminal(project: &Project, args: &[&str]) -> keg_fixtures::Terminal {
    let context = project.path("");
    let mut all = vec!["build", "--debug-shell", "-t", "built"];
    all.extend(args);
    all.push(context.to_str().unwrap());
    project.daemon.keg_on_terminal(all)
}

#[test]
fn a_failed_step_can_be_looked_into_as_it_was_left() {
    requires!(root);
    let file = "FROM BASE
WORKDIR /work
ENV GREETING=hello
RUN --mount=type=cache,target=/cache,id=kept \\
  echo half > /half && echo cached > /cache/x && echo 'what went wrong' && exit 7
";
    let project = Project::new(&[("Dockerfile", file)]);

    let mut terminal = on_terminal(&project, &[]);

    terminal.expect("what went wrong");
    terminal.expect("exit leaves it");
    terminal.expect("#");
    terminal.type_text("cat /half /cache/x; echo $GREETING from $(pwd) of $(id -u)\r");
    terminal.expect("half\r\ncached\r\nhello from /work of 0");
    terminal.type_text("stty size; echo changed > /half; exit 3\r");
    terminal.expect("24 80");
    terminal.expect("ended with 3");
    terminal.expect(">>> RUN --mount=type=cache");
    assert_eq!(terminal.wait_exit(PATIENT), 1);
    // What was typed changed nothing.
    project.write("Dockerfile", "FROM BASE\nRUN test ! -e /half\n");
    let _ = project.build(&[]).success();
}

#[test]
fn another_step_that_fails_shows_the_files_before_it() {
    requires!(root);
    let file = "FROM BASE\nRUN echo there > /before\nCOPY missing /\n";
    let project = Project::new(&[("Dockerfile", file)]);

    let mut terminal = on_terminal(&project, &[]);

    terminal.expect("exit leaves it");
    terminal.type_text("cat /before; exit\r");
    terminal.expect("there\r\n");
    terminal.expect("missing");
    assert_eq!(terminal.wait_exit(PATIENT), 1);
}

#[test]
fn a_stage_that_is_built_can_be_looked_into_too() {
    requires!(root);
    let file = "FROM BASE AS one\nRUN echo one > /one\nFROM BASE\nRUN exit 1\n";
    let project = Project::new(&[("Dockerfile", file)]);

    let mut terminal = on_terminal(&project, &["--target", "one"]);

    terminal.expect("A shell in the result");
    terminal.type_text("cat /one; rm /one; exit\r");
    terminal.expect("one\r\n");
    assert_eq!(terminal.wait_exit(PATIENT), 0);
    assert_eq!(project.run("cat /one"), "one\n");
}

#[test]
fn an_image_without_a_shell_says_so_and_a_pipe_is_no_terminal() {
    requires!(root);
    let file = "FROM scratch\nCOPY Dockerfile /file\nRUN [\"/file\"]\n";
    let project = Project::new(&[("Dockerfile", file)]);

    let mut terminal = on_terminal(&project, &["--target", "0"]);
    terminal.expect("Dockerfile:3");
    assert_eq!(terminal.wait_exit(PATIENT), 1);

    let refused = project.build(&["--debug-shell"]);
    assert!(refused.stderr.contains("needs a terminal"), "{refused:?}");
    project.write("Dockerfile", "FROM BASE\nRUN exit 1\n");
    let failed = project.build(&[]);
    assert!(failed.stderr.contains("--debug-shell"), "{failed:?}");
}
