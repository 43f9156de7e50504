//! What the checks of Dockerfiles look for, in words. Their names are BuildKit's (docs.docker.com, "Build
//! checks").

/// Checks, by their names, and what each looks for.
const RULES: [(&str, &str); 22] = [
    ("ConsistentInstructionCasing", "All instructions of a file are in the same case"),
    ("CopyIgnoredFile", "What is copied is not left out by .dockerignore"),
    ("DuplicateStageName", "Stages have names of their own"),
    (
        "ExposeInvalidFormat",
        "EXPOSE names ports of the container, and no addresses or ports of the host",
    ),
    ("ExposeProtoCasing", "Protocols of EXPOSE are in lower case"),
    ("FromAsCasing", "FROM and AS are in the same case"),
    ("FromPlatformFlagConstDisallowed", "The platform of FROM is a variable"),
    ("InvalidBaseImagePlatform", "A base image is of the platform that is asked for"),
    ("InvalidDefaultArgInFrom", "ARGs in FROM have defaults that lead to a valid name"),
    (
        "InvalidDefinitionDescription",
        "A comment above ARG or FROM begins with the name that it describes",
    ),
    (
        "JSONArgsRecommended",
        "CMD and ENTRYPOINT are lists, since a shell between takes the signals",
    ),
    ("LegacyKeyValueFormat", "ENV and LABEL have an equals sign between name and value"),
    (
        "MaintainerDeprecated",
        "A label org.opencontainers.image.authors stands in the place of MAINTAINER",
    ),
    (
        "MultipleInstructionsDisallowed",
        "An instruction of which the last alone counts is there once in a stage",
    ),
    ("NoEmptyContinuation", "No line that is continued is followed by an empty one"),
    ("RedundantTargetPlatform", "FROM does not ask for the platform that it has anyway"),
    ("ReservedStageName", "Stages do not have the names scratch and context"),
    ("SecretsUsedInArgOrEnv", "No secret is in an ARG or an ENV, which stay in the image"),
    ("StageNameCasing", "Names of stages are in lower case"),
    ("UndefinedArgInFrom", "Variables of FROM are declared by an ARG before it"),
    ("UndefinedVar", "Variables are set before they are used"),
    ("WorkdirRelativePath", "A relative WORKDIR follows one that is absolute"),
];

/// Returns what a check looks for; empty if there is no such check.
#[must_use]
pub fn check_description(check: &str) -> &'static str {
    RULES.iter().find(|(name, _)| *name == check).map_or("", |(_, description)| description)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_in_order_and_described() {
        assert!(RULES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(check_description("UndefinedVar").starts_with("Variables"));
        assert_eq!(check_description("NoSuchCheck"), "");
    }
}
