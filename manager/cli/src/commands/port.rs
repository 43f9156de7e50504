//! `keg port`: shows where a container's ports are published.

use clap::Args;
use keg_proto::keg::v1::{InspectContainerRequest, PortMapping};

use crate::client::Daemon;
use crate::failure::Failure;
use crate::output;
use crate::views::ports::host_address;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keg port web            all of them
  keg port web 80         where port 80 is
  keg port dns 53/udp")]
pub(crate) struct PortArgs {
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Port in the container, and its protocol (default: tcp)
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

/// That port is not published.
#[derive(Debug, thiserror::Error)]
#[error("no public port {port:?} published for {container}")]
struct NotPublished {
    port: String,
    container: String,
}

/// Shows them.
pub(crate) async fn run(args: PortArgs, host: &str) -> Result<u8, Failure> {
    let daemon = Daemon::connect(host).await?;
    let request = InspectContainerRequest { container: args.container.clone(), size: false };
    let container = daemon.containers().inspect(request).await?.into_inner();
    let mut ports = container.summary.unwrap_or_default().ports;
    ports.retain(|port| port.host_port != 0);
    let name = |port: &PortMapping| format!("{}/{}", port.container_port, port.protocol);
    let Some(asked) = args.port else {
        ports.sort_by_key(|port| (port.container_port, port.protocol.clone()));
        let lines = ports.iter().map(|port| format!("{} -> {}\n", name(port), host_address(port)));
        output::print(&lines.collect::<String>())?;
        return Ok(0);
    };
    let wanted = if asked.contains('/') { asked.clone() } else { format!("{asked}/tcp") };
    ports.retain(|port| name(port) == wanted.to_ascii_lowercase());
    if ports.is_empty() {
        let nothing = NotPublished { port: wanted, container: args.container };
        return Err(
            Failure::client(nothing).with_remedy("see all of them with `keg port CONTAINER`")
        );
    }
    let lines = ports.iter().map(|port| format!("{}\n", host_address(port)));
    output::print(&lines.collect::<String>())?;
    Ok(0)
}
