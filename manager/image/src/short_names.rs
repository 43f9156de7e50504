//! Short names: what a name without a registry means.
//!
//! Docker's rule is that it means `docker.io`. An operator may name other registries to be searched in
//! turn, give single names a meaning of their own, or refuse what nobody gave a meaning.

use std::borrow::Cow;
use std::collections::BTreeMap;

use keg_store::{Explain, Reason};

use crate::{Reference, ReferenceError};

/// What names without a registry mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShortNames {
    /// What those mean that have no alias.
    pub policy: ShortNamePolicy,
    /// Names, without tag, and what they stand for: `app` → `registry.example/team/app`.
    pub aliases: BTreeMap<String, String>,
}

/// What names without a registry and without an alias mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ShortNamePolicy {
    /// `docker.io`, as with Docker.
    #[default]
    Docker,
    /// The first of these registries that has them.
    Search(Vec<String>),
    /// Nothing: they are not looked for outside.
    Deny,
}

/// Why a name does not say which image is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShortNameError {
    /// The name is malformed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// What the operator made of it is malformed.
    #[error("the configuration makes {meaning:?} of {name:?}")]
    Meaning {
        /// The name.
        name: String,
        /// What it became.
        meaning: String,
        /// What is wrong with that.
        #[source]
        source: ReferenceError,
    },
    /// It names no registry, and has to.
    #[error("{name:?} names no registry, and the configuration does not allow that")]
    Denied {
        /// The name.
        name: String,
    },
}

impl Explain for ShortNameError {
    fn reason(&self) -> Reason {
        Reason::InvalidReference
    }

    fn remedy(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Reference(error) => error.remedy(),
            Self::Meaning { .. } => {
                Some("correct [registry.aliases] or registry.search in kegd.toml".into())
            }
            Self::Denied { name } => Some(
                format!("write docker.io/{name} if that is meant, or whichever registry has it")
                    .into(),
            ),
        }
    }

    fn operands(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Reference(error) => error.operands(),
            Self::Meaning { name, .. } | Self::Denied { name } => vec![("image", name.clone())],
        }
    }
}

impl ShortNames {
    /// Returns what a name may mean in registries, in the order in which they are to be asked.
    ///
    /// # Errors
    /// [`ShortNameError`] if it is malformed, or must name a registry.
    pub fn meanings(&self, text: &str) -> Result<Vec<Reference>, ShortNameError> {
        let plain = Reference::parse(text)?;
        if !Reference::is_short(text) {
            return Ok(vec![plain]);
        }
        if let Some(alias) = self.alias(text) {
            return self.meaning(text, alias).map(|meaning| vec![meaning]);
        }
        match &self.policy {
            ShortNamePolicy::Docker => Ok(vec![plain]),
            ShortNamePolicy::Search(registries) => registries
                .iter()
                .map(|registry| self.meaning(text, format!("{registry}/{text}")))
                .collect(),
            ShortNamePolicy::Deny => Err(ShortNameError::Denied { name: text.to_owned() }),
        }
    }

    /// Returns what a name may stand for among the images that are here: what it may mean in registries,
    /// and what Docker's rule gives it, since new images are named by that.
    pub(crate) fn meanings_here(&self, text: &str) -> Vec<Reference> {
        let mut meanings = self.meanings(text).unwrap_or_default();
        if let Ok(plain) = Reference::parse(text)
            && !meanings.contains(&plain)
        {
            meanings.push(plain);
        }
        meanings
    }

    /// Returns what an alias makes of a name, with the name's tag and digest.
    fn alias(&self, text: &str) -> Option<String> {
        let name = text.split(['@', ':']).next().unwrap_or(text);
        let rest = &text[name.len()..];
        self.aliases.get(name).map(|meaning| format!("{meaning}{rest}"))
    }

    fn meaning(&self, name: &str, meaning: String) -> Result<Reference, ShortNameError> {
        let name = || name.to_owned();
        Reference::parse(&meaning).map_err(|source| ShortNameError::Meaning {
            name: name(),
            meaning,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(policy: ShortNamePolicy) -> ShortNames {
        let aliases = [("app".to_owned(), "registry.example/team/app".to_owned())].into();
        ShortNames { policy, aliases }
    }

    fn meanings(names: &ShortNames, text: &str) -> Vec<String> {
        names.meanings(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_with_a_registry_means_itself_whatever_the_policy() {
        let search = ShortNamePolicy::Search(vec!["a.example".to_owned()]);
        for policy in [ShortNamePolicy::Docker, search, ShortNamePolicy::Deny] {
            let names = names(policy);
            assert_eq!(meanings(&names, "localhost/app:1"), ["localhost/app:1"]);
            assert_eq!(meanings(&names, "docker.io/app"), ["docker.io/library/app:latest"]);
        }
    }

    #[test]
    fn a_short_name_means_what_the_policy_says() {
        let search = vec!["a.example".to_owned(), "docker.io".to_owned()];
        let search = names(ShortNamePolicy::Search(search));

        assert_eq!(meanings(&ShortNames::default(), "x"), ["docker.io/library/x:latest"]);
        assert_eq!(meanings(&search, "x:1"), ["a.example/x:1", "docker.io/library/x:1"]);
        let denied = names(ShortNamePolicy::Deny).meanings("x/y").unwrap_err();
        assert!(matches!(denied, ShortNameError::Denied { name } if name == "x/y"));
    }

    #[test]
    fn an_alias_comes_before_the_policy_and_keeps_tag_and_digest() {
        let names = names(ShortNamePolicy::Deny);
        let digest = keg_store::Digest::sha256(b"x");

        assert_eq!(meanings(&names, "app"), ["registry.example/team/app:latest"]);
        assert_eq!(meanings(&names, "app:2"), ["registry.example/team/app:2"]);
        let by_digest = format!("registry.example/team/app@{digest}");
        assert_eq!(meanings(&names, &format!("app@{digest}")), [by_digest]);
        assert!(names.meanings("app/more").is_err());
    }

    #[test]
    fn what_was_named_by_dockers_rule_is_found_under_any_policy() {
        let here = names(ShortNamePolicy::Deny).meanings_here("built:1");

        assert_eq!(here.len(), 1);
        assert_eq!(here[0].to_string(), "docker.io/library/built:1");
    }

    #[test]
    fn a_meaning_that_is_no_name_is_the_operators_mistake() {
        let names = names(ShortNamePolicy::Search(vec!["not a host".to_owned()]));

        assert!(matches!(names.meanings("x"), Err(ShortNameError::Meaning { .. })));
    }
}
