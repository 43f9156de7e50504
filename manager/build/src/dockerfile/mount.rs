//! `RUN --mount=…`: what a step sees besides its root file system.

/// How several steps use a cache at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// All at the same time.
    #[default]
    Shared,
    /// Each gets one of its own if another uses it.
    Private,
    /// One after the other.
    Locked,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, of a stage, or of an image; what is written goes nowhere.
    Bind {
        /// Stage, image or named context; `None`: the context.
        from: Option<String>,
        /// Path in it.
        source: String,
        /// Whether it may be written to.
        writable: bool,
    },
    /// A directory that lives from build to build.
    Cache {
        /// Which; `None`: the target names it.
        id: Option<String>,
        /// How it is shared.
        sharing: Sharing,
        /// What it is filled with when it is new.
        from: Option<String>,
        /// Path in that.
        source: String,
        /// Whether it may only be read.
        read_only: bool,
        /// Mode of the directory when it is new.
        mode: u32,
        /// Owner of the directory when it is new.
        uid: u32,
        /// Group of the directory when it is new.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Most that it may hold.
        size_bytes: Option<u64>,
    },
    /// A file with a secret of the client.
    Secret {
        /// Which.
        id: String,
        /// Variable of the environment that gets it as well, or instead of the file.
        env: Option<String>,
        /// Whether there is a file.
        has_file: bool,
        /// Whether the build fails without it.
        required: bool,
        /// Mode of the file.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The client's SSH agent.
    Ssh {
        /// Which.
        id: String,
        /// Whether the build fails without it.
        required: bool,
        /// Mode of the socket.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// One `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMount {
    /// What.
    pub kind: MountKind,
    /// Where; relative ones are below the working directory. Empty for a default place.
    pub target: String,
}

/// Key, value if there is one.
type Field = (String, Option<String>);

/// What fields of a mount have in common.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    sharing: Option<Sharing>,
    read_only: Option<bool>,
    size_bytes: Option<u64>,
    env: Option<String>,
    required: Option<bool>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl RunMount {
    /// Reads the value of a `--mount`, variables replaced already.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Fields::default();
        for (key, value) in split(text)? {
            fields.set(&key, value)?;
        }
        fields.finish()
    }
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<String>) -> Result<(), String> {
        let flag = |value: Option<&str>| match value {
            None => Ok(true),
            Some(word) => {
                boolean(word).ok_or_else(|| format!("{key} is true or false, not {word:?}"))
            }
        };
        // Those that stand alone mean yes.
        match key {
            "readonly" | "ro" => self.read_only = Some(flag(value.as_deref())?),
            "readwrite" | "rw" => self.read_only = Some(!flag(value.as_deref())?),
            "required" => self.required = Some(flag(value.as_deref())?),
            _ => {
                let value = value.ok_or_else(|| format!("{key} needs a value"))?;
                self.set_text(key, value)?;
            }
        }
        Ok(())
    }

    fn set_text(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            "from" => self.from = Some(value),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "id" => self.id = Some(value),
            "env" => self.env = Some(value),
            "sharing" => {
                self.sharing = Some(match value.to_ascii_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    other => {
                        return Err(format!("sharing is shared, private or locked, not {other:?}"));
                    }
                });
            }
            "size" => {
                self.size_bytes = Some(
                    bytes(&value).ok_or_else(|| format!("{value:?} is no size, such as 64m"))?,
                );
            }
            "mode" => {
                self.mode = Some(
                    u32::from_str_radix(&value, 8)
                        .ok()
                        .filter(|mode| *mode <= 0o7777)
                        .ok_or_else(|| format!("{value:?} is no mode, such as 0755"))?,
                );
            }
            "uid" | "gid" => {
                let id = value.parse().map_err(|_| format!("{key} is a number, not {value:?}"))?;
                *(if key == "uid" { &mut self.uid } else { &mut self.gid }) = Some(id);
            }
            other => return Err(format!("a mount has no field {other:?}")),
        }
        Ok(())
    }

    fn finish(self) -> Result<RunMount, String> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        let (uid, gid) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0));
        let source = self.source.clone().unwrap_or_else(|| "/".to_owned());
        let last = |text: &Option<String>| {
            text.as_deref().and_then(|path| path.rsplit('/').next()).map(str::to_owned)
        };
        let mount = match kind {
            "bind" => {
                MountKind::Bind { from: self.from, source, writable: self.read_only == Some(false) }
            }
            "cache" if self.from.is_none() && !matches!(source.as_str(), "/" | "." | "") => {
                return Err(
                    "the source of a cache is in what from names, and it has none: give the \
                     directory an id of its own"
                        .to_owned(),
                );
            }
            "cache" => MountKind::Cache {
                id: self.id,
                sharing: self.sharing.unwrap_or_default(),
                from: self.from,
                source,
                read_only: self.read_only == Some(true),
                mode: self.mode.unwrap_or(0o755),
                uid,
                gid,
            },
            "tmpfs" => MountKind::Tmpfs { size_bytes: self.size_bytes },
            "secret" => MountKind::Secret {
                id: self
                    .id
                    .or(self.source)
                    .or_else(|| last(&self.target))
                    .filter(|id| !id.is_empty())
                    .ok_or("a secret needs an id")?,
                has_file: self.env.is_none() || self.target.is_some(),
                env: self.env,
                required: self.required.unwrap_or(false),
                mode: self.mode.unwrap_or(0o400),
                uid,
                gid,
            },
            "ssh" => MountKind::Ssh {
                id: self.id.unwrap_or_else(|| "default".to_owned()),
                required: self.required.unwrap_or(false),
                mode: self.mode.unwrap_or(0o600),
                uid,
                gid,
            },
            other => {
                return Err(format!(
                    "a mount is of type bind, cache, tmpfs, secret or ssh, not {other:?}"
                ));
            }
        };
        let target = self.target.unwrap_or_default();
        let needs_target = matches!(kind, "bind" | "cache" | "tmpfs");
        if needs_target && target.is_empty() {
            return Err(format!("a {kind} mount needs a target"));
        }
        Ok(RunMount { kind: mount, target })
    }
}

/// Splits `a=b,"c=d,e",f` as CSV does.
fn split(text: &str) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    let mut field = String::new();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            letter => field.push(letter),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    fields.push(field);
    Ok(fields
        .into_iter()
        .filter(|field| !field.is_empty())
        .map(|field| match field.split_once('=') {
            Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_ascii_lowercase(), None),
        })
        .collect())
}

fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "yes" => Some(true),
        "false" | "0" | "f" | "no" => Some(false),
        _ => None,
    }
}

/// Reads `64m`, `1g`, `1024`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (digits, shift) = match text.chars().last()? {
        'k' => (&text[..text.len() - 1], 10),
        'm' => (&text[..text.len() - 1], 20),
        'g' => (&text[..text.len() - 1], 30),
        't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_defaults_that_buildkit_has() {
        let parse = |text: &str| RunMount::parse(text).unwrap();

        assert_eq!(
            parse("target=/x"),
            RunMount {
                kind: MountKind::Bind { from: None, source: "/".into(), writable: false },
                target: "/x".into()
            }
        );
        assert!(matches!(
            parse("type=cache,target=/c,sharing=locked,mode=0700,uid=7").kind,
            MountKind::Cache { id: None, sharing: Sharing::Locked, mode: 0o700, uid: 7, .. }
        ));
        assert!(matches!(
            parse("type=tmpfs,target=/t,size=64m").kind,
            MountKind::Tmpfs { size_bytes: Some(0x0400_0000) }
        ));
        assert!(matches!(
            parse("type=secret,id=a,required").kind,
            MountKind::Secret { required: true, has_file: true, mode: 0o400, .. }
        ));
        assert!(matches!(
            parse("type=secret,id=a,env=TOKEN").kind,
            MountKind::Secret { has_file: false, .. }
        ));
        assert!(matches!(parse("type=ssh").kind, MountKind::Ssh { mode: 0o600, .. }));
        assert!(matches!(
            parse("type=bind,from=a,source=/x,target=/y,rw").kind,
            MountKind::Bind { writable: true, .. }
        ));
        assert_eq!(parse("type=tmpfs,\"target=/a,b\"").target, "/a,b");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (text, word) in [
            ("type=disk,target=/x", "disk"),
            ("type=bind", "target"),
            ("type=cache,target=/x,sharing=some", "some"),
            ("type=tmpfs,target=/x,size=big", "big"),
            ("type=secret", "id"),
            ("target=/x,mode=9", "mode"),
            ("target=/x,colour=red", "colour"),
            ("target", "value"),
            ("\"target=/x", "quote"),
        ] {
            let problem = RunMount::parse(text).unwrap_err();
            assert!(problem.contains(word), "{text}: {problem}");
        }
    }
}
