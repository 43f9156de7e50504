//! What a container uses, as the messages that containerd's clients know.
//!
//! Hosts with any v1 controller report v1, as those messages' readers expect; pure v2 hosts report
//! v2. A file that is not there leaves its fields empty: which controllers there are is the host's
//! matter.

mod files;
mod v1;
mod v2;

use prost::Message;

use crate::cgroup::Cgroups;

/// Measures the cgroups of a container.
pub(crate) fn measure(cgroups: &Cgroups) -> prost_types::Any {
    // systemd's own hierarchy of v1 has no controller.
    let has_v1 = cgroups.v1.keys().any(|controller| !controller.starts_with("name="));
    match &cgroups.v2 {
        Some(dir) if !has_v1 => prost_types::Any {
            type_url: "io.containerd.cgroups.v2.Metrics".to_owned(),
            value: v2::measure(dir).encode_to_vec(),
        },
        _ => prost_types::Any {
            type_url: "io.containerd.cgroups.v1.Metrics".to_owned(),
            value: v1::measure(cgroups).encode_to_vec(),
        },
    }
}
