//! Profiles of system calls that people bring along, in Docker's format: rules that count only with
//! some capability, architecture or kernel become rules that count.

use oci_spec::runtime::{Capabilities, LinuxSeccomp};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::SpecError;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct When {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: String,
}

/// Translates a profile for a container with these capabilities, on this kernel.
///
/// # Errors
/// [`SpecError::SeccompProfile`] if it is not JSON, or not what the runtime specification or Docker
/// describe.
pub fn translate(
    profile: &str,
    capabilities: &Capabilities,
    kernel: &str,
) -> Result<LinuxSeccomp, SpecError> {
    let read = || -> Result<LinuxSeccomp, serde_json::Error> {
        let mut profile: Map<String, Value> = serde_json::from_str(profile)?;
        if let Some(Value::Array(map)) = profile.remove("archMap") {
            profile.insert("architectures".to_owned(), architectures(&map));
        }
        if let Some(Value::Array(rules)) = profile.remove("syscalls") {
            let mut kept = Vec::new();
            for rule in rules {
                kept.extend(counting(rule, capabilities, kernel)?);
            }
            profile.insert("syscalls".to_owned(), Value::Array(kept));
        }
        serde_json::from_value(Value::Object(profile))
    };
    read().map_err(|error| SpecError::SeccompProfile { problem: error.to_string() })
}

/// The host's architecture and those that run beside it.
fn architectures(map: &[Value]) -> Value {
    let host = match std::env::consts::ARCH {
        "aarch64" => "SCMP_ARCH_AARCH64",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "s390x" => "SCMP_ARCH_S390X",
        "powerpc64" => "SCMP_ARCH_PPC64LE",
        _ => "SCMP_ARCH_X86_64",
    };
    let mut list = vec![json!(host)];
    for entry in map.iter().filter(|entry| entry["architecture"] == host) {
        list.extend(entry["subArchitectures"].as_array().cloned().unwrap_or_default());
    }
    Value::Array(list)
}

/// A rule without its conditions, if they hold.
fn counting(
    rule: Value,
    capabilities: &Capabilities,
    kernel: &str,
) -> Result<Option<Value>, serde_json::Error> {
    let Value::Object(mut rule) = rule else { return Ok(Some(rule)) };
    let conditions = |rule: &mut Map<String, Value>, key: &str| match rule.remove(key) {
        None | Some(Value::Null) => Ok(When::default()),
        Some(value) => serde_json::from_value(value),
    };
    let (includes, excludes) =
        (conditions(&mut rule, "includes")?, conditions(&mut rule, "excludes")?);
    rule.remove("comment");
    if let Some(Value::String(name)) = rule.remove("name")
        && !name.is_empty()
    {
        rule.insert("names".to_owned(), json!([name]));
    }
    let has = |name: &String| {
        let short = name.trim_start_matches("CAP_");
        capabilities
            .iter()
            .any(|capability| capability.to_string().trim_start_matches("CAP_") == short)
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let here = |names: &[String]| names.iter().any(|name| name == arch);
    let counts = includes.caps.iter().all(has)
        && (includes.arches.is_empty() || here(&includes.arches))
        && is_at_least(kernel, &includes.min_kernel)
        && !excludes.caps.iter().any(has)
        && !here(&excludes.arches)
        && (excludes.min_kernel.is_empty() || !is_at_least(kernel, &excludes.min_kernel));
    Ok(counts.then_some(Value::Object(rule)))
}

/// Whether a kernel's release is `wanted`, "4.8", or later.
fn is_at_least(kernel: &str, wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit())
            .take(2)
            .map(|number| number.parse().unwrap_or_default())
            .collect()
    };
    wanted.is_empty() || numbers(kernel) >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    #[test]
    fn only_rules_whose_conditions_hold_are_kept() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
              {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
              {"name": "write", "action": "SCMP_ACT_ALLOW", "args": []},
              {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
              {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_CHROOT"]}},
              {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
              {"names": ["newer"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "9.1"}}]}"#;
        let capabilities: Capabilities = [Capability::SysChroot].into();

        let filter = translate(profile, &capabilities, "6.1.0-13-amd64").unwrap();

        let names: Vec<&str> = filter
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|rule| rule.names().iter().map(String::as_str))
            .collect();
        assert_eq!(names, ["read", "write", "new"]);
        assert!(matches!(
            translate("{", &capabilities, "6.1"),
            Err(SpecError::SeccompProfile { .. })
        ));
    }
}
