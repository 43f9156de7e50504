//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use keg_proto::keg::v1::Mount;

use super::size;

/// Ways in which mounts spread between the host and the container.
const PROPAGATIONS: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

/// Why a mount cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MountError {
    /// Too many colons, or nothing between them.
    #[error("{text:?} is no volume: give [SOURCE:]TARGET[:OPTIONS], as in /srv/data:/data:ro")]
    BadVolume { text: String },
    /// A target that is not absolute.
    #[error("{text:?}: the path in the container, {target:?}, must be absolute")]
    RelativeTarget { text: String, target: String },
    /// An option that does not exist.
    #[error("{text:?}: there is no option {option:?}; there are {known}")]
    UnknownOption { text: String, option: String, known: &'static str },
    /// Two options that exclude each other.
    #[error("{text:?}: \"ro\" and \"rw\" exclude each other")]
    ReadOnlyAndWritable { text: String },
    /// A `--mount` without its type's fields.
    #[error("{text:?}: {field:?} is missing")]
    Missing { text: String, field: &'static str },
    /// A field that takes a value and has none, or the other way round.
    #[error("{text:?}: {option:?} has a value that makes no sense here")]
    BadValue { text: String, option: String },
    /// A field that belongs to another type.
    #[error("{text:?}: {field:?} does not go with type={kind}")]
    WrongType { text: String, field: &'static str, kind: String },
}

/// Understands `-v [SOURCE:]TARGET[:OPTIONS]`. A source with a slash, or that begins with a dot, is
/// a path on the host (made absolute below `current_dir`), anything else names a volume.
///
/// # Errors
/// [`MountError`] that shows the text and what is wrong with it.
pub(crate) fn volume(text: &str, current_dir: &Path) -> Result<Mount, MountError> {
    let bad = || MountError::BadVolume { text: text.to_owned() };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] if target.starts_with('/') => (*source, *target, ""),
        [target, options] if target.starts_with('/') => ("", *target, *options),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(bad()),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty() && options.is_empty()) {
        return Err(bad());
    }
    let is_path = source.contains('/') || source.starts_with('.') || source.starts_with('~');
    let mut mount = Mount {
        r#type: if is_path { "bind" } else { "volume" }.to_owned(),
        source: if is_path { absolute(source, current_dir) } else { source.to_owned() },
        target: absolute_target(text, target)?,
        read_only: false,
        create_source: is_path,
        ..Mount::default()
    };
    let mut writable = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => writable = true,
            // Where the host has no SELinux, the daemon has nothing to relabel.
            "z" => "shared".clone_into(&mut mount.selinux_relabel),
            "Z" => "private".clone_into(&mut mount.selinux_relabel),
            "nocopy" if !is_path => mount.volume_nocopy = true,
            _ if PROPAGATIONS.contains(&option) => mount.propagation = option.to_owned(),
            _ => {
                return Err(MountError::UnknownOption {
                    text: text.to_owned(),
                    option: option.to_owned(),
                    known: "ro, rw, nocopy (volumes), z, Z, rprivate, private, rshared, shared, rslave, slave",
                });
            }
        }
    }
    if mount.read_only && writable {
        return Err(MountError::ReadOnlyAndWritable { text: text.to_owned() });
    }
    Ok(mount)
}

/// Understands `--mount type=bind,source=/srv,target=/data,readonly` and its synonyms.
///
/// # Errors
/// [`MountError`] that shows the text and what is wrong with it.
pub(crate) fn mount(text: &str, current_dir: &Path) -> Result<Mount, MountError> {
    let mut mount = Mount { r#type: "volume".to_owned(), ..Mount::default() };
    for field in fields(text) {
        let field = field.as_str();
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let bad_value = || MountError::BadValue { text: text.to_owned(), option: field.to_owned() };
        match key.to_ascii_lowercase().as_str() {
            "type" => mount.r#type = value.ok_or_else(bad_value)?.to_owned(),
            "source" | "src" => mount.source = value.ok_or_else(bad_value)?.to_owned(),
            "target" | "destination" | "dst" => {
                mount.target = absolute_target(text, value.ok_or_else(bad_value)?)?;
            }
            "readonly" | "ro" => mount.read_only = yes_or_no(value).ok_or_else(bad_value)?,
            "bind-create-src" => mount.create_source = yes_or_no(value).ok_or_else(bad_value)?,
            "tmpfs-size" => {
                let bytes =
                    value.and_then(|value| size::bytes(value).ok()).ok_or_else(bad_value)?;
                mount.tmpfs_options.push(format!("size={bytes}"));
            }
            "tmpfs-mode" => {
                let mode = value.ok_or_else(bad_value)?;
                mount.tmpfs_options.push(format!("mode={mode}"));
            }
            "volume-nocopy" => mount.volume_nocopy = yes_or_no(value).ok_or_else(bad_value)?,
            "volume-subpath" => {
                mount.volume_subpath = value.ok_or_else(bad_value)?.to_owned();
            }
            "volume-driver" => mount.volume_driver = value.ok_or_else(bad_value)?.to_owned(),
            "volume-opt" | "volume-label" => {
                let text = value.ok_or_else(bad_value)?;
                let (name, value) = text.split_once('=').unwrap_or((text, ""));
                let pairs = if key.eq_ignore_ascii_case("volume-opt") {
                    &mut mount.volume_options
                } else {
                    &mut mount.volume_labels
                };
                pairs.insert(name.to_owned(), value.to_owned());
            }
            "bind-recursive" => match value {
                Some("enabled" | "disabled" | "writable") => {
                    mount.bind_recursive = value.unwrap_or_default().to_owned();
                }
                // Mounts below a read-only one are so by themselves.
                Some("readonly") => mount.bind_recursive = "enabled".to_owned(),
                _ => return Err(bad_value()),
            },
            "bind-nonrecursive" => {
                if yes_or_no(value).ok_or_else(bad_value)? {
                    mount.bind_recursive = "disabled".to_owned();
                }
            }
            "bind-propagation" => match value {
                Some(value) if PROPAGATIONS.contains(&value) => {
                    mount.propagation = value.to_owned();
                }
                _ => return Err(bad_value()),
            },
            _ => {
                return Err(MountError::UnknownOption {
                    text: text.to_owned(),
                    option: key.to_owned(),
                    known: "type, source (src), target (dst, destination), readonly (ro), \
                            bind-propagation, bind-recursive, bind-create-src, volume-nocopy, \
                            volume-subpath, volume-driver, volume-opt, volume-label, tmpfs-size, \
                            tmpfs-mode",
                });
            }
        }
    }
    finish(text, mount, current_dir)
}

/// Splits at commas; a field between double quotes may hold some, as in CSV.
fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut rest) = (false, text.chars().peekable());
    while let Some(character) = rest.next() {
        let at_start = fields.last().is_none_or(String::is_empty);
        match character {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                fields.last_mut().into_iter().for_each(|field| field.push('"'));
            }
            '"' if quoted || at_start => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().into_iter().for_each(|field| field.push(other)),
        }
    }
    fields
}

/// Checks that a mount has what its type needs, and nothing else.
fn finish(text: &str, mut mount: Mount, current_dir: &Path) -> Result<Mount, MountError> {
    if mount.target.is_empty() {
        return Err(MountError::Missing { text: text.to_owned(), field: "target" });
    }
    let kind = mount.r#type.clone();
    let wrong = |field| {
        Err(MountError::WrongType { text: text.to_owned(), field, kind: mount.r#type.clone() })
    };
    match mount.r#type.as_str() {
        "bind" if mount.source.is_empty() => {
            return Err(MountError::Missing { text: text.to_owned(), field: "source" });
        }
        "bind" | "volume" if !mount.tmpfs_options.is_empty() => return wrong("tmpfs-…"),
        "bind" | "tmpfs" if concerns_volumes(&mount) => return wrong("volume-…"),
        "volume" | "tmpfs" if !mount.bind_recursive.is_empty() || mount.create_source => {
            return wrong("bind-…");
        }
        "bind" => mount.source = absolute(&mount.source, current_dir),
        "volume" | "tmpfs" if !mount.propagation.is_empty() => return wrong("bind-propagation"),
        "tmpfs" if !mount.source.is_empty() => return wrong("source"),
        "volume" | "tmpfs" => {}
        _ => {
            return Err(MountError::UnknownOption {
                text: text.to_owned(),
                option: kind,
                known: "type=bind, type=volume, type=tmpfs",
            });
        }
    }
    Ok(mount)
}

/// Whether a mount has fields that only volumes have.
fn concerns_volumes(mount: &Mount) -> bool {
    mount.volume_nocopy
        || !mount.volume_subpath.is_empty()
        || !mount.volume_driver.is_empty()
        || !mount.volume_options.is_empty()
        || !mount.volume_labels.is_empty()
}

/// What the value of a switch says; none means yes.
fn yes_or_no(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("true" | "1") => Some(true),
        Some("false" | "0") => Some(false),
        Some(_) => None,
    }
}

/// Understands `--tmpfs TARGET[:OPTIONS]`, options as mount(8) has them.
///
/// # Errors
/// [`MountError`] that shows the text and what is wrong with it.
pub(crate) fn tmpfs(text: &str) -> Result<Mount, MountError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = Mount {
        r#type: "tmpfs".to_owned(),
        target: absolute_target(text, target)?,
        ..Mount::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            _ => mount.tmpfs_options.push(option.to_owned()),
        }
    }
    Ok(mount)
}

fn absolute_target(text: &str, target: &str) -> Result<String, MountError> {
    if target.starts_with('/') {
        return Ok(target.to_owned());
    }
    Err(MountError::RelativeTarget { text: text.to_owned(), target: target.to_owned() })
}

/// Makes a path on the host absolute. "." and ".." at its beginning are taken by name, since they
/// are the caller's own; what the path holds is the daemon's to resolve.
fn absolute(source: &str, current_dir: &Path) -> String {
    let mut path = PathBuf::new();
    for component in current_dir.join(source).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mount: &Mount) -> String {
        let mut text = format!("{} {}>{}", mount.r#type, mount.source, mount.target);
        for (set, word) in [(mount.read_only, "ro"), (mount.create_source, "create")] {
            if set {
                text = format!("{text} {word}");
            }
        }
        for word in [&mount.propagation, &mount.selinux_relabel] {
            if !word.is_empty() {
                text = format!("{text} {word}");
            }
        }
        text
    }

    #[test]
    fn volumes_are_paths_names_or_anonymous() {
        let here = Path::new("/home/me");
        let table = [
            ("/srv/data:/data", "bind /srv/data>/data create"),
            ("/srv:/data:ro", "bind /srv>/data ro create"),
            ("./x:/data:rw", "bind /home/me/x>/data create"),
            ("..:/data", "bind /home>/data create"),
            ("db:/var/lib/db", "volume db>/var/lib/db"),
            ("/data", "volume >/data"),
            ("/data:ro", "volume >/data ro"),
            ("/srv:/data:ro,rslave,z", "bind /srv>/data ro create rslave shared"),
            ("db:/data:Z", "volume db>/data private"),
        ];
        for (text, expected) in table {
            assert_eq!(volume(text, here).as_ref().map(shown).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", ":", ":/x", "a:b", "/a:/b:bad", "a:b:c:d", "/a:/b:ro,rw", "name:"] {
            assert!(volume(text, here).is_err(), "{text}");
        }
    }

    #[test]
    fn mounts_are_read_field_by_field() {
        let here = Path::new("/home/me");
        let table = [
            ("type=bind,source=/srv,target=/data", "bind /srv>/data"),
            (
                "type=bind,src=x,dst=/data,ro,bind-propagation=rshared",
                "bind /home/me/x>/data ro rshared",
            ),
            ("target=/data", "volume >/data"),
            ("source=db,destination=/data,readonly=false", "volume db>/data"),
            ("type=tmpfs,target=/tmp", "tmpfs >/tmp"),
        ];
        for (text, expected) in table {
            assert_eq!(mount(text, here).as_ref().map(shown).as_deref(), Ok(expected), "{text}");
        }
        let quoted =
            r#"src=v,dst=/x,"volume-opt=o=addr=1.2.3.4,rw",volume-opt=type=nfs,volume-nocopy"#;
        let volume = mount(quoted, here).expect("a mount");
        assert_eq!(volume.volume_options["o"], "addr=1.2.3.4,rw");
        assert!(volume.volume_nocopy && volume.volume_options["type"] == "nfs");
        let bad = [
            ("type=bind,source=/a,target=/x,volume-nocopy", "does not go with type=bind"),
            ("type=volume,target=/x,bind-recursive=disabled", "does not go with type=volume"),
            ("type=bind,target=/x", "\"source\" is missing"),
            ("type=bind,source=/x", "\"target\" is missing"),
            ("type=npipe,target=/x", "type=bind, type=volume, type=tmpfs"),
            ("type=tmpfs,source=/a,target=/x", "\"source\" does not go with type=tmpfs"),
            ("target=x", "must be absolute"),
            ("target=/x,tmpfs-size=1m", "does not go with type=volume"),
            ("type=tmpfs,target=/x,tmpfs-size=much", "makes no sense"),
            ("target=/x,colour=blue", "no option \"colour\""),
            ("target=/x,ro=maybe", "makes no sense"),
        ];
        for (text, expected) in bad {
            let error = mount(text, here).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn tmpfs_takes_a_target_and_access() {
        assert_eq!(tmpfs("/run").as_ref().map(shown).as_deref(), Ok("tmpfs >/run"));
        assert_eq!(tmpfs("/run:ro").as_ref().map(shown).as_deref(), Ok("tmpfs >/run ro"));
        assert!(tmpfs("run").is_err());
        let sized = tmpfs("/run:size=1m,ro,mode=1777").expect("a mount");
        assert_eq!(sized.tmpfs_options, ["size=1m", "mode=1777"]);
        assert!(sized.read_only);
    }
}
