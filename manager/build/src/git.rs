//! Git repositories as contexts and sources: how they are named, and how they are checked out.
//!
//! A repository is named by `URL#REF:DIRECTORY`, or with a query in place of the fragment:
//! `URL?branch=main&subdir=docs`. What the query can say is in [`GitAddress`].

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tokio::process::Command;

use crate::build::Build;
use crate::error::BuildError;
use crate::inputs::Material;
use crate::remote::{host_of, run};
use crate::sources::clean;
use crate::tree::Tree;

/// Text that looks like the address of a repository and is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitAddressError {
    /// The query has a key that means nothing.
    #[error(
        "the address of a repository has no {key:?}: it has ref, branch, tag, commit, subdir, \
         keep-git-dir, submodules and mtime"
    )]
    Key {
        /// The key.
        key: String,
    },
    /// The query has a value that means nothing there.
    #[error("{value:?} is no value of {key} in the address of a repository")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// The address says two things.
    #[error("the address of a repository names both {first:?} and {second:?}")]
    Conflict {
        /// What is said first.
        first: String,
        /// And then.
        second: String,
    },
}

/// A repository as an address names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitAddress {
    url: String,
    /// A branch, a tag or a commit.
    reference: Option<String>,
    directory: String,
    /// The beginning of the commit that must have been found.
    pub(crate) commit: Option<String>,
    keeps_git_dir: Option<bool>,
    has_submodules: bool,
    /// Whether files are as old as the commit, and not as new as the checkout.
    is_dated: bool,
}

/// Tells whether a text is the address of a repository.
pub(crate) fn is_git(text: &str) -> bool {
    let address = text.split(['#', '?']).next().unwrap_or(text);
    address.starts_with("git://")
        || address.starts_with("ssh://")
        || (address.starts_with("git@") && address.contains(':'))
        || address.starts_with("github.com/")
        // Not file://, which would be a repository of the daemon's machine.
        || ((address.starts_with("http://") || address.starts_with("https://"))
            && address.ends_with(".git"))
}

impl GitAddress {
    /// Reads an address for which [`is_git`] holds.
    fn parse(text: &str) -> Result<Self, GitAddressError> {
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let url = match address.strip_prefix("github.com/") {
            Some(rest) => format!("https://github.com/{rest}"),
            None => address.to_owned(),
        };
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut this = Self {
            url,
            reference: Some(reference.to_owned()).filter(|reference| !reference.is_empty()),
            directory: clean(directory),
            commit: None,
            keeps_git_dir: None,
            has_submodules: true,
            is_dated: false,
        };
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            this.say(key, value)?;
        }
        Ok(this)
    }

    fn say(&mut self, key: &str, value: &str) -> Result<(), GitAddressError> {
        let whole = |prefix: &str| match value.starts_with(prefix) {
            true => value.to_owned(),
            false => format!("{prefix}{value}"),
        };
        match key {
            "ref" => self.refer(value.to_owned())?,
            "branch" => self.refer(whole("refs/heads/"))?,
            "tag" => self.refer(whole("refs/tags/"))?,
            "commit" | "checksum" => self.commit = Some(value.to_owned()),
            "subdir" => {
                let second = clean(value);
                if !self.directory.is_empty() && self.directory != second {
                    let first = self.directory.clone();
                    return Err(GitAddressError::Conflict { first, second });
                }
                self.directory = second;
            }
            "keep-git-dir" => self.keeps_git_dir = Some(switch("keep-git-dir", value)?),
            "submodules" => self.has_submodules = switch("submodules", value)?,
            "mtime" => {
                self.is_dated = match value {
                    "checkout" => false,
                    "commit" => true,
                    _ => return Err(GitAddressError::Value { key: "mtime", value: value.into() }),
                }
            }
            _ => return Err(GitAddressError::Key { key: key.to_owned() }),
        }
        Ok(())
    }

    fn refer(&mut self, second: String) -> Result<(), GitAddressError> {
        match self.reference.replace(second.clone()) {
            Some(first) if first != second => Err(GitAddressError::Conflict { first, second }),
            _ => Ok(()),
        }
    }
}

/// Reads what is on or off; on, if no more is said.
fn switch(key: &'static str, value: &str) -> Result<bool, GitAddressError> {
    if value.is_empty() {
        return Ok(true);
    }
    parse_bool(value).ok_or_else(|| GitAddressError::Value { key, value: value.to_owned() })
}

/// Reads a truth value as Go does (`strconv.ParseBool`).
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Build {
    /// Reads the address of a repository.
    pub(crate) fn git_address(&self, text: &str) -> Result<GitAddress, BuildError> {
        let failed = |source| BuildError::Repository { address: text.to_owned(), source };
        GitAddress::parse(text).map_err(failed)
    }

    /// Checks a repository out, which `text` names; returns its files.
    pub(crate) async fn checkout(
        &self,
        text: &str,
        address: &GitAddress,
        keep_git_dir: bool,
    ) -> Result<Arc<Tree>, BuildError> {
        let dir = self
            .shared
            .content
            .temporary_dir()
            .map_err(BuildError::io("make a directory for a repository"))?;
        let authorization = self.git_authorization(&address.url).await?;
        let git = |args: &[&str]| {
            let mut command = Command::new("git");
            command
                .arg("-C")
                .arg(dir.path())
                .args(["-c", "protocol.ext.allow=never", "-c", "protocol.file.allow=never"])
                .args(["-c", "advice.detachedHead=false"])
                .args(args)
                .env("GIT_TERMINAL_PROMPT", "0")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .kill_on_drop(true);
            // Not in its arguments, which everybody on the machine can read.
            if let Some((key, value)) = &authorization {
                command.env("GIT_CONFIG_COUNT", "1");
                command.env("GIT_CONFIG_KEY_0", key).env("GIT_CONFIG_VALUE_0", value);
            }
            run("git", command, &address.url)
        };
        git(&["init", "-q", "."]).await?;
        git(&["remote", "add", "origin", "--", &address.url]).await?;
        let wanted = address.reference.as_deref().unwrap_or("HEAD");
        if wanted.starts_with('-') {
            let problem = format!("{wanted:?} is no branch, tag or commit");
            return Err(BuildError::Malformed { problem });
        }
        // A commit that is no tip of a branch needs all of them, and so do servers that only serve
        // files.
        let shallow = git(&["fetch", "-q", "--depth=1", "origin", wanted]).await;
        let is_name = wanted == "HEAD" || wanted.starts_with("refs/");
        let head = match shallow {
            Ok(_) => "FETCH_HEAD",
            Err(_) if is_name => {
                git(&["fetch", "-q", "origin", wanted]).await?;
                "FETCH_HEAD"
            }
            Err(_) => {
                git(&["fetch", "-q", "--tags", "origin"]).await?;
                wanted
            }
        };
        git(&["checkout", "-q", "--force", head]).await?;
        if address.has_submodules {
            git(&["submodule", "update", "-q", "--init", "--recursive", "--depth=1"]).await?;
        }
        let shown = git(&["show", "-s", "--format=%H %ct", "HEAD"]).await?;
        let (commit, time) = shown.trim().split_once(' ').unwrap_or((shown.trim(), ""));
        if let Some(wanted) = address.commit.clone().filter(|wanted| !commit.starts_with(wanted)) {
            let (url, found) = (address.url.clone(), commit.to_owned());
            return Err(BuildError::Checksum { url, wanted, found });
        }
        let (url, digest) = (text.to_owned(), commit.to_owned());
        self.inputs.note_material(Material::Address { url, digest });
        if let Ok(time_secs) = time.parse() {
            self.inputs.note_time(text, time_secs);
            if address.is_dated {
                date(dir.path(), time_secs).map_err(BuildError::io("date a repository's files"))?;
            }
        }
        if !address.keeps_git_dir.unwrap_or(keep_git_dir) {
            std::fs::remove_dir_all(dir.path().join(".git"))
                .map_err(BuildError::io("leave the repository's history out"))?;
        }
        let tree = Tree::directory(&directory_in(dir.path(), &address.directory)?)?;
        self.keep_directory(dir);
        Ok(Arc::new(tree))
    }

    /// Returns git's setting by which the client's secrets let it in, if there are any.
    async fn git_authorization(&self, url: &str) -> Result<Option<(String, String)>, BuildError> {
        let Some(host) = host_of(url).filter(|_| url.starts_with("http")) else { return Ok(None) };
        let scheme = url.split("://").next().unwrap_or_default();
        let secrets = [
            (format!("GIT_AUTH_HEADER.{host}"), false),
            (format!("GIT_AUTH_TOKEN.{host}"), true),
            ("GIT_AUTH_HEADER".to_owned(), false),
            ("GIT_AUTH_TOKEN".to_owned(), true),
        ];
        for (id, is_token) in secrets {
            let Some(mut value) = self.secret_text(&id).await? else { continue };
            if is_token {
                let pair = format!("x-access-token:{value}");
                value = format!("basic {}", BASE64_STANDARD.encode(pair));
            }
            let key = format!("http.{scheme}://{host}/.extraHeader");
            return Ok(Some((key, format!("Authorization: {value}"))));
        }
        Ok(None)
    }
}

/// Finds a directory of a repository; its links may not lead out.
fn directory_in(root: &Path, directory: &str) -> Result<std::path::PathBuf, BuildError> {
    let root = root.canonicalize().map_err(BuildError::io("find the repository"))?;
    let real = root.join(directory).canonicalize();
    let real = real.map_err(BuildError::io("find the repository's directory"))?;
    if !real.starts_with(root) {
        return Err(BuildError::NoSource { path: directory.to_owned(), is_ignored: false });
    }
    Ok(real)
}

/// Makes everything in a directory as old as a commit.
fn date(dir: &Path, time_secs: i64) -> std::io::Result<()> {
    let time = Timespec { tv_sec: time_secs, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            date(&entry.path(), time_secs)?;
        }
        utimensat(CWD, entry.path(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_files() {
        assert!(is_git("https://example.org/a.git#v1:sub/dir") && is_git("git@example.org:a/b#:x"));
        assert!(is_git("https://example.org/a.git?branch=main") && is_git("github.com/a/b"));
        assert!(!is_git("https://example.org/a.tar.gz") && !is_git("file:///srv/private.git"));
        assert!(!is_git("src/x.git"));
    }

    #[test]
    fn an_address_names_a_reference_and_a_directory() {
        let address = |text: &str| {
            GitAddress::parse(text).map(|a| (a.url, a.reference.unwrap_or_default(), a.directory))
        };
        let of = |url: &str, reference: &str, directory: &str| {
            Ok((url.to_owned(), reference.to_owned(), directory.to_owned()))
        };
        let url = "https://example.org/a.git";

        assert_eq!(address("https://example.org/a.git#v1:sub/dir"), of(url, "v1", "sub/dir"));
        assert_eq!(address("git@example.org:a/b#:x"), of("git@example.org:a/b", "", "x"));
        assert_eq!(address("github.com/a/b"), of("https://github.com/a/b", "", ""));
        let query = "https://example.org/a.git?tag=v1&subdir=docs&commit=12ab#refs/tags/v1";
        assert_eq!(address(query), of(url, "refs/tags/v1", "docs"));
        assert_eq!(address("https://example.org/a.git?branch=b"), of(url, "refs/heads/b", ""));
    }

    #[test]
    fn a_query_that_means_nothing_is_refused() {
        let parse = |query: &str| GitAddress::parse(&format!("https://example.org/a.git{query}"));
        let keeps = |query: &str| parse(query).map(|address| address.keeps_git_dir);

        assert_eq!(keeps("?keep-git-dir"), Ok(Some(true)));
        assert_eq!(keeps("?keep-git-dir=false"), Ok(Some(false)));
        assert_eq!(keeps("?submodules=0"), Ok(None));
        let conflict = parse("?tag=v1#refs/heads/main");
        assert!(matches!(conflict, Err(GitAddressError::Conflict { .. })), "{conflict:?}");
        assert!(matches!(parse("?keep-git-dir=maybe"), Err(GitAddressError::Value { .. })));
        assert!(matches!(parse("?depth=1"), Err(GitAddressError::Key { .. })));
    }
}
