//! Users and groups, by name or number.

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

use super::Fault;

/// Who an App of root's is unless it is said: nobody.
const NOBODY: u32 = 65534;

/// Who the App is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Identity {
    /// From what was said, if anything was.
    pub(crate) fn of(user: Option<&str>, group: Option<&str>) -> Result<Self, Fault> {
        let uid = match user {
            Some(name) => uid_of(name)?,
            None if geteuid().is_root() => NOBODY,
            None => geteuid().as_raw(),
        };
        let gid = match group {
            Some(name) => gid_of(name)?,
            None if uid == geteuid().as_raw() => getegid().as_raw(),
            None => primary_group(uid)?,
        };
        Ok(Self { uid, gid })
    }
}

fn uid_of(name: &str) -> Result<u32, Fault> {
    if let Ok(uid) = name.parse() {
        return Ok(uid);
    }
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(unknown("uid", name, "user")),
        Err(errno) => Err(Fault::cannot(format!("look up the user {name:?}"), errno.desc())),
    }
}

fn gid_of(name: &str) -> Result<u32, Fault> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(unknown("gid", name, "group")),
        Err(errno) => Err(Fault::cannot(format!("look up the group {name:?}"), errno.desc())),
    }
}

/// Neither a number that the kernel could have, nor a name that this machine knows.
fn unknown(option: &str, name: &str, what: &str) -> Fault {
    Fault::Said(format!("{option} {name:?}: neither a {what} of this machine nor a {option}"))
}

/// What the user database says, or the same number for who is not in it.
fn primary_group(uid: u32) -> Result<u32, Fault> {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(user) => Ok(user.map_or(uid, |user| Gid::as_raw(user.gid))),
        Err(errno) => Err(Fault::cannot(format!("look up the user {uid}"), errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_they_are() {
        let said = |uid, gid| Identity::of(Some(uid), Some(gid)).unwrap();
        assert_eq!(said("1234567", "89"), Identity { uid: 1_234_567, gid: 89 });
        // The kernel's "unchanged" is refused later, by the rules for requests.
        assert_eq!(said("4294967295", "0"), Identity { uid: u32::MAX, gid: 0 });
    }

    #[test]
    fn who_is_not_in_the_database_is_alone_in_a_group() {
        let identity = Identity::of(Some("3999999999"), None).unwrap();
        assert_eq!(identity, Identity { uid: 3_999_999_999, gid: 3_999_999_999 });
    }

    #[test]
    fn unknown_names_are_named() {
        for name in ["no-such-user", "-1", "", "4294967296"] {
            let fault = Identity::of(Some(name), None).unwrap_err().to_string();
            assert_eq!(fault, format!("uid {name:?}: neither a user of this machine nor a uid"));
        }
        let fault = Identity::of(Some("1"), Some("no such")).unwrap_err().to_string();
        assert_eq!(fault, "gid \"no such\": neither a group of this machine nor a gid");
    }
}
