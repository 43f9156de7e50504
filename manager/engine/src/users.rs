//! Who a process is: `user[:group]` becomes numbers, by the container's own `/etc/passwd` and
//! `/etc/group`.
//!
//! The rules are those of runc and Docker: a name must be there; a number need not, and then has
//! group 0 and no further groups; a name of digits is a name first if the file has it.

/// The names in `/etc/passwd` and `/etc/group`, as text; empty where there is no such file.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccountFiles<'a> {
    /// `/etc/passwd`.
    pub passwd: &'a str,
    /// `/etc/group`.
    pub group: &'a str,
}

/// A process's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups, sorted, each once.
    pub additional_gids: Vec<u32>,
    /// Home directory, or `/`.
    pub home: String,
}

/// Why a user or a group cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("no user {name:?} in the container's /etc/passwd")]
    UnknownUser {
        /// The name.
        name: String,
    },
    /// No such name.
    #[error("no group {name:?} in the container's /etc/group")]
    UnknownGroup {
        /// The name.
        name: String,
    },
    /// Beyond what the kernel takes.
    #[error("id {id:?} is out of range: ids go from 0 to 2147483647")]
    OutOfRange {
        /// The number.
        id: String,
    },
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Looks `user[:group]` up; empty is root. `extra_groups` are further groups, names or numbers.
///
/// # Errors
/// [`UserError`] if a name is unknown or a number too large.
pub fn resolve(
    spec: &str,
    extra_groups: &[String],
    files: AccountFiles<'_>,
) -> Result<Identity, UserError> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = find_user(user, files);
    let uid = match &entry {
        Some(entry) => entry.uid,
        None => number(user)?.ok_or_else(|| UserError::UnknownUser { name: user.to_owned() })?,
    };
    let mut additional_gids = Vec::new();
    let gid = match (group, &entry) {
        (Some(group), _) => find_group(group, files)?,
        (None, Some(entry)) => {
            additional_gids.extend(
                groups(files.group)
                    .filter(|group| group.members.split(',').any(|member| member == entry.name))
                    .map(|group| group.gid),
            );
            entry.gid
        }
        (None, None) => 0,
    };
    for group in extra_groups {
        additional_gids.push(find_group(group, files)?);
    }
    additional_gids.sort_unstable();
    additional_gids.dedup();
    let home = entry.map(|entry| entry.home).filter(|home| home.starts_with('/')).unwrap_or("/");
    Ok(Identity { uid, gid, additional_gids, home: home.to_owned() })
}

/// By name first, by number second.
fn find_user<'a>(user: &str, files: AccountFiles<'a>) -> Option<PasswdEntry<'a>> {
    let by_number = user.parse::<u32>().ok();
    users(files.passwd)
        .find(|entry| entry.name == user)
        .or_else(|| users(files.passwd).find(|entry| Some(entry.uid) == by_number))
}

fn find_group(group: &str, files: AccountFiles<'_>) -> Result<u32, UserError> {
    if let Some(entry) = groups(files.group).find(|entry| entry.name == group) {
        return Ok(entry.gid);
    }
    number(group)?.ok_or_else(|| UserError::UnknownGroup { name: group.to_owned() })
}

/// Reads a number; `None` if it is not one.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if i32::try_from(id).is_ok() => Ok(Some(id)),
        _ => Err(UserError::OutOfRange { id: text.to_owned() }),
    }
}

/// `name:password:uid:gid:comment:home:shell`; lines that are otherwise are passed over.
fn users(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// `name:password:gid:member,member`; lines that are otherwise are passed over.
fn groups(group: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: AccountFiles<'static> = AccountFiles {
        passwd: "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34::/srv/web:/bin/false\n\
                 1000:x:7:7::/digits:\nbroken:x:notanumber\n",
        group: "root:x:0:\nwww:x:34:\naudio:x:29:web,other\nvideo:x:44:other,web\n",
    };

    fn of(spec: &str) -> Result<(u32, u32, Vec<u32>, String), UserError> {
        resolve(spec, &[], FILES).map(|id| (id.uid, id.gid, id.additional_gids, id.home))
    }

    #[test]
    fn names_numbers_and_groups_resolve_as_docker_does() {
        type Row = (&'static str, (u32, u32, &'static [u32], &'static str));
        let table: [Row; 8] = [
            ("", (0, 0, &[], "/root")),
            ("0", (0, 0, &[], "/root")),
            ("web", (33, 34, &[29, 44], "/srv/web")),
            ("33", (33, 34, &[29, 44], "/srv/web")),
            ("web:audio", (33, 29, &[], "/srv/web")),
            ("web:", (33, 34, &[29, 44], "/srv/web")),
            ("4242:77", (4242, 77, &[], "/")),
            ("1000", (7, 7, &[], "/digits")),
        ];
        for (spec, (uid, gid, groups, home)) in table {
            assert_eq!(of(spec), Ok((uid, gid, groups.to_vec(), home.to_owned())), "{spec:?}");
        }
    }

    #[test]
    fn unknown_names_and_huge_numbers_are_refused() {
        assert_eq!(of("nobody"), Err(UserError::UnknownUser { name: "nobody".into() }));
        assert_eq!(of("web:none"), Err(UserError::UnknownGroup { name: "none".into() }));
        assert_eq!(of("2147483648"), Err(UserError::OutOfRange { id: "2147483648".into() }));
        assert_eq!(of("-1"), Err(UserError::UnknownUser { name: "-1".into() }));
        assert_eq!(of("broken"), Err(UserError::UnknownUser { name: "broken".into() }));
    }

    #[test]
    fn extra_groups_join_the_users_own() {
        let extra = ["video".to_owned(), "1234".to_owned()];

        let identity = resolve("web", &extra, FILES).unwrap();

        assert_eq!(identity.additional_gids, [29, 44, 1234]);
    }

    #[test]
    fn a_container_without_account_files_knows_numbers_only() {
        let none = AccountFiles::default();

        assert_eq!(resolve("", &[], none).unwrap().home, "/");
        assert!(resolve("root", &[], none).is_err());
    }
}
