//! Dockerfiles as they are in the wild: what is read from them, and what is refused.

use proptest::prelude::*;

use super::*;

fn only(text: &str) -> Instruction {
    let file = Dockerfile::parse(&format!("FROM x\n{text}\n")).unwrap();
    file.stages[0].instructions[0].instruction.clone()
}

fn problem(text: &str) -> String {
    Dockerfile::parse(&format!("FROM x\n{text}\n")).unwrap_err().to_string()
}

#[test]
fn stages_are_named_and_numbered() {
    let file = Dockerfile::parse(
        "ARG V=1\nfrom --platform=$BUILDPLATFORM go:$V AS Build\nRUN x\nFROM scratch\nCOPY --from=build /a /b\n",
    )
    .unwrap();

    assert_eq!(file.global_args.len(), 1);
    assert_eq!(file.stages[0].name.as_deref(), Some("build"));
    assert_eq!(file.stages[0].platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!(file.stages[0].base, "go:$V");
    assert_eq!(file.stages[1].range, 4..=4);
    let Instruction::Copy(copy) = &file.stages[1].instructions[0].instruction else { panic!() };
    assert_eq!(copy.from.as_deref(), Some("build"));
}

#[test]
fn commands_are_lists_or_lines() {
    assert_eq!(
        only(r#"CMD ["a", "b c"]"#),
        Instruction::Cmd(Command::Exec(vec!["a".into(), "b c".into()]))
    );
    assert_eq!(only("CMD [a]"), Instruction::Cmd(Command::Shell("[a]".into())));
    assert_eq!(only("cmd a  b"), Instruction::Cmd(Command::Shell("a  b".into())));
}

#[test]
fn flags_are_read_where_they_belong() {
    let Instruction::Run(run) = only(
        "RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --network=none --security=insecure x --y",
    ) else {
        panic!()
    };
    assert_eq!(run.mounts.len(), 2);
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    assert_eq!(run.command, Command::Shell("x --y".into()));

    let Instruction::Add(add) = only(
        "ADD --chown=1:2 --checksum=sha256:00 --keep-git-dir=true --link --exclude=*.md --exclude=x a b /c/",
    ) else {
        panic!()
    };
    assert!(add.keep_git_dir && add.copy.link);
    assert_eq!(add.copy.exclude, ["*.md", "x"]);
    assert_eq!(add.copy.sources, ["a", "b"]);
}

#[test]
fn names_and_values_may_be_written_in_both_ways() {
    let Instruction::Env(pairs) = only(r#"ENV A=1 B="x y" C=a\ b"#) else { panic!() };
    let values: Vec<&str> = pairs.iter().map(|pair| pair.value.as_str()).collect();
    assert_eq!(values, ["1", "\"x y\"", r"a\ b"]);

    let Instruction::Env(pairs) = only("ENV A some words") else { panic!() };
    assert_eq!((pairs[0].value.as_str(), pairs[0].is_legacy), ("some words", true));
    let Instruction::Arg(args) = only("ARG A B=2") else { panic!() };
    assert_eq!(args, [("A".into(), None), ("B".into(), Some("2".into()))]);
}

#[test]
fn health_checks_have_durations() {
    let Instruction::Healthcheck(health) =
        only("HEALTHCHECK --interval=1m30s --timeout=100ms --retries=3 CMD [\"a\"]")
    else {
        panic!()
    };
    assert_eq!(health.interval_nsec, Some(90_000_000_000));
    assert_eq!(health.timeout_nsec, Some(100_000_000));
    assert_eq!(health.retries, Some(3));
    assert!(matches!(
        only("HEALTHCHECK NONE"),
        Instruction::Healthcheck(Health { test: HealthTest::None, .. })
    ));
}

#[test]
fn triggers_keep_their_text_and_must_make_sense() {
    assert_eq!(only("ONBUILD RUN a  b"), Instruction::Onbuild("RUN a  b".into()));
    assert!(problem("ONBUILD FROM x").contains("trigger"));
    assert!(problem("ONBUILD ONBUILD RUN x").contains("trigger"));
    assert!(problem("ONBUILD RUNX").contains("RUNX"));
    assert_eq!(only("ONBUILD RUN <<E\nhi\nE"), Instruction::Onbuild("RUN <<E\nhi\nE".into()));
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let table = [
        ("RNU x", "line 2: there is no instruction \"RNU\" (did you mean RUN?)"),
        ("COPY a", "line 2: COPY: it needs at least one source"),
        ("COPY a b c", "must end with a /"),
        ("RUN", "nothing to run"),
        ("RUN --mont=x y", "--mont"),
        ("RUN --network=wifi x", "wifi"),
        ("ENV", "needs an argument"),
        ("ENV A", "no value"),
        ("ENV A=1 B", "has no ="),
        ("SHELL bash", "list"),
        ("USER a b", "one argument"),
        ("HEALTHCHECK x", "NONE or CMD"),
        ("HEALTHCHECK --interval=x CMD y", "duration"),
        ("EXPOSE", "needs an argument"),
        ("FROM a b", "FROM IMAGE AS NAME"),
        ("FROM a AS 1x", "name for a stage"),
        ("COPY --chown=a --chown=b x y", "twice"),
        ("CMD --x=y z", "no flag --x"),
    ];
    for (text, expected) in table {
        let problem = problem(text);
        assert!(problem.contains(expected), "{text}: {problem}");
    }
    assert_eq!(
        Dockerfile::parse("RUN x\nFROM y"),
        Err(ParseError::BeforeFrom { line: 1, instruction: "RUN" })
    );
    assert_eq!(Dockerfile::parse("ARG x"), Err(ParseError::NoStage));
    assert_eq!(Dockerfile::parse("# x\n\n"), Err(ParseError::Empty));
}

#[test]
fn ports_are_ranges_with_protocols() {
    assert_eq!(port_specs("80").unwrap(), ["80/tcp"]);
    assert_eq!(port_specs("53-54/UDP").unwrap(), ["53/udp", "54/udp"]);
    for bad in ["x", "9-1", "1/icmp", "70000"] {
        assert!(port_specs(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_file_makes_the_parser_panic(
        lines in prop::collection::vec("(FROM|RUN|COPY|ADD|ENV|ARG|HEALTHCHECK|ONBUILD|SHELL|x)? ?(--[a-z]{0,6}=?)?[ -~é]{0,30}", 0..8)
    ) {
        let _ = Dockerfile::parse(&lines.join("\n"));
    }
}
