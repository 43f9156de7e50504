//! Ids of the host and ids in a container, and the attributes that have ids in them.
//!
//! What a container writes belongs to its range of host ids (ARCHITECTURE.md, "Invariants"). In an
//! archive there are the container's own ids, and so they must be in three places: owners, POSIX
//! access lists, and file capabilities, which name the root user that they are for.

use keg_store::IdRange;

/// Attribute with the capabilities of a file.
const CAPABILITY: &[u8] = b"security.capability";

/// Attributes with access lists (acl(5)).
const ACCESS_LISTS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Tags of the entries of an access list that name somebody.
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

/// Length of an access list's header, and of each entry.
const ACL_HEADER_BYTES: usize = 4;
const ACL_ENTRY_BYTES: usize = 8;

/// Lengths of capabilities without and with the root user that they are for.
const CAPABILITY_2_BYTES: usize = 20;
const CAPABILITY_3_BYTES: usize = 24;

/// Where the version is in a capability's first word (little endian), and the two versions.
const REVISION_BYTE: usize = 3;
const REVISION_2: u8 = 2;
const REVISION_3: u8 = 3;

/// A part of an id map: `count` ids from `container` are `host` and up on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdExtent {
    /// First id in the container.
    pub container: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// How the ids of files on the disk relate to those in an archive. Ids that no extent has are the
/// same on both sides: such files come from an image's layers, or from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    users: Vec<IdExtent>,
    groups: Vec<IdExtent>,
}

impl Owners {
    /// The ids are the same.
    #[must_use]
    pub fn same() -> Self {
        Self::default()
    }

    /// Maps by extents, for users and for groups.
    #[must_use]
    pub fn mapped(users: Vec<IdExtent>, groups: Vec<IdExtent>) -> Self {
        Self { users, groups }
    }

    /// Tells the archive's id of a user on the disk.
    #[must_use]
    pub fn user_to_archive(&self, id: u32) -> u32 {
        to_container(&self.users, id)
    }

    /// Tells the archive's id of a group on the disk.
    #[must_use]
    pub fn group_to_archive(&self, id: u32) -> u32 {
        to_container(&self.groups, id)
    }

    /// Tells the disk's id of a user in an archive; `None` if the container has no such user.
    #[must_use]
    pub fn user_to_disk(&self, id: u32) -> Option<u32> {
        to_host(&self.users, id)
    }

    /// Tells the disk's id of a group in an archive; `None` if the container has no such group.
    #[must_use]
    pub fn group_to_disk(&self, id: u32) -> Option<u32> {
        to_host(&self.groups, id)
    }

    /// Makes an attribute on the disk fit for an archive.
    pub(crate) fn attribute_to_archive(&self, key: &[u8], value: &mut Vec<u8>) {
        if ACCESS_LISTS.contains(&key) {
            map_access_list(
                value,
                |user| self.user_to_archive(user),
                |group| self.group_to_archive(group),
            );
        } else if key == CAPABILITY
            && value.len() == CAPABILITY_3_BYTES
            && value[REVISION_BYTE] == REVISION_3
        {
            let root = u32::from_le_bytes([value[20], value[21], value[22], value[23]]);
            // For the root of this container: in an image, for whichever root there will be.
            if self.user_to_archive(root) == 0 {
                value.truncate(CAPABILITY_2_BYTES);
                value[REVISION_BYTE] = REVISION_2;
            }
        }
    }

    /// Makes an attribute in an archive fit for the disk.
    pub(crate) fn attribute_to_disk(&self, key: &[u8], value: &mut Vec<u8>) {
        if ACCESS_LISTS.contains(&key) {
            map_access_list(
                value,
                |user| self.user_to_disk(user).unwrap_or(user),
                |group| self.group_to_disk(group).unwrap_or(group),
            );
        } else if key == CAPABILITY
            && value.len() == CAPABILITY_2_BYTES
            && value[REVISION_BYTE] == REVISION_2
            && let Some(root) = self.user_to_disk(0).filter(|root| *root != 0)
        {
            value[REVISION_BYTE] = REVISION_3;
            value.extend(root.to_le_bytes());
        }
    }
}

impl From<Option<IdRange>> for Owners {
    fn from(range: Option<IdRange>) -> Self {
        let extents: Vec<IdExtent> = range
            .map(|range| IdExtent { container: 0, host: range.base, count: range.count })
            .into_iter()
            .collect();
        Self { users: extents.clone(), groups: extents }
    }
}

fn to_container(extents: &[IdExtent], id: u32) -> u32 {
    extents
        .iter()
        .find_map(|extent| {
            let offset = id.checked_sub(extent.host).filter(|offset| *offset < extent.count)?;
            extent.container.checked_add(offset)
        })
        .unwrap_or(id)
}

fn to_host(extents: &[IdExtent], id: u32) -> Option<u32> {
    if extents.is_empty() {
        return Some(id);
    }
    extents.iter().find_map(|extent| {
        let offset = id.checked_sub(extent.container).filter(|offset| *offset < extent.count)?;
        extent.host.checked_add(offset)
    })
}

fn map_access_list(list: &mut [u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) {
    let Some(entries) = list.get_mut(ACL_HEADER_BYTES..) else { return };
    for entry in entries.chunks_exact_mut(ACL_ENTRY_BYTES) {
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let mapped = match u16::from_le_bytes([entry[0], entry[1]]) {
            ACL_USER => user(id),
            ACL_GROUP => group(id),
            _ => continue,
        };
        entry[4..].copy_from_slice(&mapped.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners() -> Owners {
        Owners::from(Some(IdRange { base: 1000, count: 100 }))
    }

    #[test]
    fn ids_go_back_to_what_the_container_knows() {
        let owners = owners();

        assert_eq!((owners.user_to_archive(1000), owners.group_to_archive(1099)), (0, 99));
        assert_eq!((owners.user_to_archive(0), owners.user_to_archive(1100)), (0, 1100));
        assert_eq!((owners.user_to_disk(99), owners.user_to_disk(100)), (Some(1099), None));
        assert_eq!(Owners::same().user_to_disk(5), Some(5));
    }

    #[test]
    fn capabilities_lose_and_get_the_root_that_they_are_for() {
        let for_any: Vec<u8> = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        let mut value = for_any.clone();

        owners().attribute_to_disk(CAPABILITY, &mut value);

        let for_one: Vec<u8> = [&[1, 0, 0, 3][..], &[7; 16], &1000_u32.to_le_bytes()].concat();
        assert_eq!(value, for_one);
        owners().attribute_to_archive(CAPABILITY, &mut value);
        assert_eq!(value, for_any);
        Owners::same().attribute_to_disk(CAPABILITY, &mut value);
        assert_eq!(value, for_any);
    }

    #[test]
    fn access_lists_name_the_containers_users() {
        let entry = |tag: u16, id: u32| {
            [&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let list = |user, group| {
            [2_u32.to_le_bytes().to_vec(), entry(1, u32::MAX), entry(2, user), entry(8, group)]
                .concat()
        };
        let mut value = list(1005, 1006);

        owners().attribute_to_archive(b"system.posix_acl_access", &mut value);

        assert_eq!(value, list(5, 6));
        owners().attribute_to_disk(b"system.posix_acl_access", &mut value);
        assert_eq!(value, list(1005, 1006));
    }
}
