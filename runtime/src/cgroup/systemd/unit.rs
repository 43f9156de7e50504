//! What a container is called among systemd's units, and its limits in systemd's words.

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;

use super::super::convert;
use super::super::error::CgroupError;
use super::wire::Variant;

/// A property of a unit.
pub(super) type Property = (&'static str, Variant);

/// No limit, in systemd's words.
const INFINITY: u64 = u64::MAX;
/// systemd keeps CPU quotas as whole percents, that is in steps of this.
const QUOTA_STEP_USEC: u64 = 10_000;
const SEC_USEC: u64 = 1_000_000;

/// A scope, or a slice that is a container itself, within a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) slice: String,
    pub(super) name: String,
}

impl Unit {
    /// Reads `SLICE:PREFIX:NAME`, the form of linux.cgroupsPath with this driver; nothing stands
    /// for the default.
    pub(super) fn parse(text: &str, id: &str, default_slice: &str) -> Result<Self, CgroupError> {
        let refuse = |why| Err(CgroupError::Path { path: text.into(), why });
        let (slice, prefix, name) = if text.is_empty() {
            ("", "keg", id)
        } else {
            let parts: Vec<&str> = text.split(':').collect();
            let [slice, prefix, name] = parts[..] else {
                return refuse("the systemd driver wants SLICE:PREFIX:NAME");
            };
            (slice, prefix, name)
        };
        let slice = if slice.is_empty() { default_slice } else { slice };
        if expand_slice(slice).is_none() {
            return refuse("the part before the first colon is no name of a slice");
        }
        let name = if name.ends_with(".slice") {
            name.to_owned()
        } else if prefix.is_empty() {
            format!("{name}.scope")
        } else {
            format!("{prefix}-{name}.scope")
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if name.len() > 255 || name.starts_with('.') || !name.bytes().all(allowed) {
            return refuse("the name of the unit may have letters, digits and : - _ . \\ @");
        }
        Ok(Self { slice: slice.to_owned(), name })
    }

    pub(super) fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// Where systemd puts the unit, below the root of its hierarchy.
    pub(super) fn path(&self) -> PathBuf {
        let own = if self.is_slice() { expand_slice(&self.name) } else { None };
        own.unwrap_or_else(|| expand_slice(&self.slice).unwrap_or_default().join(&self.name))
    }

    /// What the unit is, apart from its limits.
    pub(super) fn properties(&self, id: &str, pid: u32) -> Vec<Property> {
        let mut properties = vec![
            ("Description", Variant::Text(format!("container {id}"))),
            ("DefaultDependencies", Variant::Bool(false)),
            ("MemoryAccounting", Variant::Bool(true)),
            ("TasksAccounting", Variant::Bool(true)),
            ("IOAccounting", Variant::Bool(true)),
        ];
        if self.is_slice() {
            properties.push(("Wants", Variant::Texts(vec![self.slice.clone()])));
        } else {
            properties.push(("Slice", Variant::Text(self.slice.clone())));
            // systemd leaves what is below to us, and what is inside.
            properties.push(("Delegate", Variant::Bool(true)));
            properties.push(("PIDs", Variant::Numbers(vec![pid])));
        }
        properties
    }
}

/// The directory of a slice: `a-b.slice` lies within `a.slice`; `None` if it is no slice's name.
fn expand_slice(name: &str) -> Option<PathBuf> {
    let stem = name.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(PathBuf::new());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:\\@".contains(&byte);
    if stem.is_empty() || stem.starts_with('.') || !stem.bytes().all(allowed) {
        return None;
    }
    let mut path = PathBuf::new();
    let mut so_far = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return None;
        }
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push(format!("{so_far}.slice"));
    }
    Some(path)
}

/// The limits that systemd must know, so that it does not undo ours. What it does not know, such as
/// huge pages, it leaves alone; that and these are written to the files as well.
pub(super) fn limits(resources: &LinuxResources) -> Result<Vec<Property>, CgroupError> {
    let mut limits = Vec::new();
    let mut limit = |name, number: Option<i64>| {
        if let Some(number) = number.filter(|number| *number != 0) {
            let number = u64::try_from(number).unwrap_or(INFINITY);
            limits.push((name, Variant::Number(number)));
        }
    };
    if let Some(memory) = resources.memory() {
        limit("MemoryMax", memory.limit());
        limit("MemoryLow", memory.reservation());
        if memory.limit().is_some() {
            let swap = convert::swap_alone(memory.swap(), memory.limit())?;
            // Zero is a limit here: no swap at all.
            if let Some(swap) = swap {
                let swap = u64::try_from(swap).unwrap_or(INFINITY);
                limits.push(("MemorySwapMax", Variant::Number(swap)));
            }
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
            limits.push(("CPUWeight", Variant::Number(convert::cpu_weight(shares))));
        }
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            let period = cpu.period().filter(|period| *period != 0).unwrap_or(100_000);
            limits.push(("CPUQuotaPerSecUSec", Variant::Number(quota_per_sec(quota, period))));
            limits.push(("CPUQuotaPeriodUSec", Variant::Number(period)));
        }
        for (name, list) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                let bits = bits(list).ok_or_else(|| CgroupError::Limit {
                    field: "cpu.cpus".into(),
                    why: format!("{list:?} is no list such as 0-2,7"),
                })?;
                limits.push((name, Variant::Bytes(bits)));
            }
        }
    }
    for (file, value) in resources.unified().iter().flatten() {
        limits.extend(unified(file, value));
    }
    Ok(limits)
}

/// A file that the bundle names itself, if systemd has a property for it: systemd writes the default
/// to those that it knows and was not told of.
fn unified(file: &str, value: &str) -> Option<Property> {
    let property = match file {
        "cpu.weight" => "CPUWeight",
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "cpuset.cpus" => return bits(value).map(|bits| ("AllowedCPUs", Variant::Bytes(bits))),
        "cpuset.mems" => {
            return bits(value).map(|bits| ("AllowedMemoryNodes", Variant::Bytes(bits)));
        }
        _ => return None,
    };
    let number = super::super::dir::parse_u64_or_max(value.trim())?;
    Some((property, Variant::Number(number)))
}

/// The limit of processes, which is told apart, since it is the last to be set; nothing for zero.
pub(super) fn tasks_max(limit: i64) -> Option<Property> {
    let number = u64::try_from(limit).unwrap_or(INFINITY);
    (limit != 0).then_some(("TasksMax", Variant::Number(number)))
}

fn quota_per_sec(quota_usec: i64, period_usec: u64) -> u64 {
    let Ok(quota) = u64::try_from(quota_usec) else { return INFINITY };
    // Rounded up, so that the file's exact value, which is written afterwards, is never above.
    quota.saturating_mul(SEC_USEC).div_ceil(period_usec).next_multiple_of(QUOTA_STEP_USEC)
}

/// A list such as `0-2,7` as a bit map.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut bits = Vec::new();
    for member in super::super::stats::parse_list(list)? {
        let (byte, bit) = (usize::from(member / 8), member % 8);
        if bits.len() <= byte {
            bits.resize(byte + 1, 0_u8);
        }
        bits[byte] |= 1 << bit;
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn units_are_named_and_placed_as_systemd_does() {
        for (text, name, path) in [
            ("", "keg-c1.scope", "system.slice/keg-c1.scope"),
            ("machine.slice:libpod:abc", "libpod-abc.scope", "machine.slice/libpod-abc.scope"),
            ("user-1000.slice::x", "x.scope", "user.slice/user-1000.slice/x.scope"),
            (":docker:x", "docker-x.scope", "system.slice/docker-x.scope"),
            ("-.slice:a:b", "a-b.scope", "a-b.scope"),
            ("a.slice:p:a-b.slice", "a-b.slice", "a.slice/a-b.slice"),
        ] {
            let unit = Unit::parse(text, "c1", "system.slice").unwrap();
            assert_eq!(
                (unit.name.as_str(), unit.path().as_path()),
                (name, Path::new(path)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for text in [
            "/a/b",
            "a.slice:b",
            "a:b:c",
            "a/b.slice:c:d",
            "a--b.slice:c:d",
            "-a.slice:c:d",
            "..slice:a:b",
            "a.slice:b:c/d",
            "a.slice:b:c d",
            "a.slice:b:c:d",
            ".slice:b:c",
        ] {
            assert!(Unit::parse(text, "c1", "system.slice").is_err(), "{text}");
        }
    }

    #[test]
    fn quotas_are_rounded_up_to_whole_percents() {
        for (quota, period, per_sec) in [
            (50_000, 100_000, 500_000),
            (1, 100_000, 10_000),
            (33_333, 100_000, 340_000),
            (-1, 100_000, INFINITY),
        ] {
            assert_eq!(quota_per_sec(quota, period), per_sec);
        }
    }

    #[test]
    fn limits_are_told_in_systemds_words() {
        let resources = serde_json::from_value(serde_json::json!({
            "memory": { "limit": 100, "swap": 100 },
            "cpu": { "shares": 1024, "cpus": "0,9" },
            "unified": { "memory.high": "max" },
        }))
        .unwrap();

        let expected = [
            ("MemoryMax", Variant::Number(100)),
            ("MemorySwapMax", Variant::Number(0)),
            ("CPUWeight", Variant::Number(100)),
            ("AllowedCPUs", Variant::Bytes(vec![1, 2])),
            ("MemoryHigh", Variant::Number(INFINITY)),
        ];
        assert_eq!(limits(&resources).unwrap(), expected);
        assert_eq!(tasks_max(1), Some(("TasksMax", Variant::Number(1))));
        assert_eq!(tasks_max(0), None);
        assert_eq!(tasks_max(-1), Some(("TasksMax", Variant::Number(INFINITY))));
    }
}
