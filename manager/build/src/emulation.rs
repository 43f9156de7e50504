//! Commands for other processors: whether this machine runs them, by an emulator that the kernel
//! knows (binfmt_misc).
//!
//! The emulator must be registered with the flag `F`: the kernel then holds it open, and it need not be
//! in the container.

use std::path::Path;

use keg_image::Platform;

use crate::build::host_platform;
use crate::error::BuildError;

/// Where the kernel lists its interpreters.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// How programs for an architecture begin (elf(5)): class, octet order, `e_machine`; and QEMU's name.
const ARCHITECTURES: [(&str, u8, u8, u16, &str); 12] = [
    ("amd64", 2, 1, 62, "qemu-x86_64"),
    ("386", 1, 1, 3, "qemu-i386"),
    ("arm64", 2, 1, 183, "qemu-aarch64"),
    ("arm", 1, 1, 40, "qemu-arm"),
    ("ppc64le", 2, 1, 21, "qemu-ppc64le"),
    ("s390x", 2, 2, 22, "qemu-s390x"),
    ("riscv64", 2, 1, 243, "qemu-riscv64"),
    ("loong64", 2, 1, 258, "qemu-loongarch64"),
    ("mips64le", 2, 1, 8, "qemu-mips64el"),
    ("mips64", 2, 2, 8, "qemu-mips64"),
    ("mipsle", 1, 1, 8, "qemu-mipsel"),
    ("mips", 1, 2, 8, "qemu-mips"),
];

/// Checks that commands of a platform can be run here.
///
/// # Errors
/// [`BuildError::NoEmulator`] if they cannot.
pub(crate) fn check(platform: &Platform) -> Result<(), BuildError> {
    let host = host_platform();
    let is_native = platform.os == host.os
        && (platform.architecture == host.architecture
            || (platform.architecture == "386" && host.architecture == "amd64"));
    if is_native {
        return Ok(());
    }
    let known = ARCHITECTURES.iter().find(|(name, ..)| *name == platform.architecture);
    if let Some((_, class, order, machine, _)) = known.filter(|_| platform.os == host.os) {
        let head = head_of(*class, *order, *machine);
        if entries(Path::new(REGISTERED)).iter().any(|entry| takes(entry, &head)) {
            return Ok(());
        }
    }
    Err(BuildError::NoEmulator {
        platform: platform.to_string(),
        host: host.to_string(),
        emulator: known.map_or("QEMU's user mode", |(.., emulator)| *emulator),
    })
}

/// The first octets of a program.
fn head_of(class: u8, order: u8, machine: u16) -> Vec<u8> {
    let number = |value: u16| if order == 2 { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut head = vec![0x7f, b'E', b'L', b'F', class, order, 1];
    head.resize(16, 0);
    // ET_EXEC; who takes that takes the position-independent ones too.
    head.extend(number(2));
    head.extend(number(machine));
    head
}

/// Returns what the kernel tells of each interpreter; nothing if it has none.
fn entries(directory: &Path) -> Vec<String> {
    let Ok(names) = std::fs::read_dir(directory) else { return Vec::new() };
    names.flatten().filter_map(|name| std::fs::read_to_string(name.path()).ok()).collect()
}

/// Tells whether an interpreter takes programs that begin so, inside a container too.
fn takes(entry: &str, head: &[u8]) -> bool {
    let field = |name: &str| {
        let rest = entry.lines().find_map(|line| line.strip_prefix(name))?;
        Some(rest.trim_start_matches(':').trim())
    };
    let is_enabled = entry.lines().next() == Some("enabled");
    let is_held_open = field("flags").is_some_and(|flags| flags.contains('F'));
    let Some(magic) = field("magic").and_then(octets) else { return false };
    let mask = field("mask").and_then(octets).unwrap_or_else(|| vec![0xff; magic.len()]);
    let offset = field("offset").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let begins_so = magic.iter().zip(&mask).enumerate().all(|(index, (magic, mask))| {
        head.get(offset + index).is_some_and(|octet| octet & mask == magic & mask)
    });
    is_enabled && is_held_open && begins_so
}

/// Reads octets in hexadecimal.
fn octets(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AARCH64: &str = "enabled\ninterpreter /usr/libexec/qemu-aarch64\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_interpreter_is_for_the_programs_that_its_magic_describes() {
        let head = |name: &str| {
            let (_, class, order, machine, _) =
                ARCHITECTURES.iter().find(|(known, ..)| *known == name).unwrap();
            head_of(*class, *order, *machine)
        };

        assert!(takes(AARCH64, &head("arm64")));
        for other in ["arm", "amd64", "s390x", "riscv64"] {
            assert!(!takes(AARCH64, &head(other)), "{other}");
        }
        assert!(!takes(&AARCH64.replace("enabled", "disabled"), &head("arm64")));
        assert!(!takes(&AARCH64.replace("OCF", "OC"), &head("arm64")));
        assert!(!takes("enabled\ninterpreter /x\nflags: F\nextension .x\n", &head("arm64")));
    }

    #[test]
    fn what_the_processor_does_itself_needs_no_emulator() {
        check(&host_platform()).unwrap();
        let missing = check(&"linux/sparc".parse().unwrap()).unwrap_err();
        assert!(matches!(missing, BuildError::NoEmulator { .. }), "{missing:?}");
    }
}
