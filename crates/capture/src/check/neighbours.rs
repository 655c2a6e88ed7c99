//! Who else handles Services on this node.

use std::fs;
use std::path::Path;

use netlink_packet_route::link::LinkAttribute;
use rtnetlink::Handle;

use super::Finding;
use crate::command::find;
use crate::nft::list_tables;
use crate::tools::Iptables;
use crate::{Error, alias, link};

/// Where Cilium keeps its programs at connect(2), since version 1.14.
const CILIUM_SOCKET_PROGRAMS: &str = "/sys/fs/bpf/cilium/socketlb";

/// The links that kube-proxy in ipvs mode and Cilium make.
const IPVS_LINK: &str = "kube-ipvs0";
const CILIUM_LINK: &str = "cilium_host";

/// Names of network plug-ins that lead a pod's connections to a proxy inside the pod.
const MESHES: [(&str, &str); 2] = [("istio-cni", "Istio"), ("linkerd-cni", "Linkerd")];

/// The longest configuration of a network plug-in that is read.
const MAX_OCTETS: u64 = 1 << 20;

/// kube-proxy, by what its modes leave in the kernel.
pub(super) async fn kube_proxy(iptables: &Iptables) -> Finding {
    let subject = "kube-proxy";
    if has_nft_table().await {
        let found = "its nftables mode has rules here, and is asked after us, by nftables";
        return Finding::fit(subject, found);
    }
    if links().await.is_ok_and(|names| names.iter().any(|name| name == IPVS_LINK)) {
        return Finding::fit(subject, "its ipvs mode is here, and asked after us");
    }
    if iptables.has_chain("nat", "KUBE-SERVICES").await {
        return Finding::fit(subject, "its iptables mode has rules here, and is asked after us");
    }
    Finding::fit(subject, "there are no rules of it")
}

async fn has_nft_table() -> bool {
    let Some(nft) = find("nft") else { return false };
    let Ok(tables) = list_tables(&nft, &[]).await else { return false };
    tables.iter().any(|table| table.ends_with(" kube-proxy"))
}

/// Bridges whose frames pass by iptables.
pub(super) async fn bridges() -> Finding {
    let subject = "bridges";
    match alias::unfiltered_bridges().await {
        Ok(names) if names.is_empty() => Finding::fit(subject, "none passes frames by iptables"),
        Ok(names) => Finding::warning(
            subject,
            format!("frames on {} pass by iptables", names.join(", ")),
            "where pods are on it, load br_netfilter and set net.bridge.bridge-nf-call-iptables \
             and -ip6tables to 1; else endpoints see the node's address instead of the client's",
        ),
        Err(error) => Finding::warning(subject, error.to_string(), "run this as root"),
    }
}

/// Cilium may translate Services at connect(2), where no packet is there yet.
pub(super) async fn cilium() -> Finding {
    let subject = "Cilium";
    let advice = "set socketLB.hostNamespaceOnly=true, or kubeProxyReplacement=false: else pods' \
                  connections go to an endpoint before our rules see them";
    if Path::new(CILIUM_SOCKET_PROGRAMS).exists() {
        return Finding::unfit(subject, "its socket load balancer translates Services", advice);
    }
    match links().await {
        Ok(names) if names.iter().any(|name| name == CILIUM_LINK) => {
            Finding::warning(subject, "it runs here and may translate Services itself", advice)
        }
        Ok(_) => Finding::fit(subject, "it is not here"),
        Err(error) => Finding::warning(subject, error.to_string(), "run this as root"),
    }
}

/// Meshes lead the connections of their pods to their own proxies first.
pub(super) fn meshes(cni_folder: &Path) -> Finding {
    let subject = "meshes";
    let Ok(files) = fs::read_dir(cni_folder) else {
        return Finding::fit(subject, format!("{} has no plug-ins", cni_folder.display()));
    };
    let small = |path: &Path| path.metadata().is_ok_and(|file| file.len() <= MAX_OCTETS);
    let texts = files.flatten().map(|file| file.path()).filter(|path| small(path));
    let texts: Vec<String> = texts.filter_map(|path| fs::read_to_string(path).ok()).collect();
    let found: Vec<&str> = MESHES
        .into_iter()
        .filter(|(plugin, _)| texts.iter().any(|text| text.contains(plugin)))
        .map(|(_, name)| name)
        .collect();
    if found.is_empty() {
        return Finding::fit(subject, "no plug-in of one is configured");
    }
    let found = format!("configured: {}", found.join(", "));
    let advice = "connections of pods in the mesh are balanced by its sidecars, and arrive here \
                  only where those dial a Service address";
    Finding::warning(subject, found, advice)
}

async fn links() -> Result<Vec<String>, Error> {
    link::converse(async |handle: &Handle| {
        let links = alias::links(handle).await?;
        let names = links.into_iter().flat_map(|link| link.attributes);
        let name = |attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        };
        Ok(names.filter_map(name).collect())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_mesh_is_known_by_its_plug_in() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        assert_eq!(meshes(&folder.path().join("none")).verdict, Verdict::Fit);
        fs::write(folder.path().join("10-kindnet.conflist"), "{\"type\": \"ptp\"}")
            .expect("is written");
        assert_eq!(meshes(folder.path()).verdict, Verdict::Fit);
        let plugins = "{\"plugins\": [{\"type\": \"istio-cni\"}, {\"type\": \"linkerd-cni\"}]}";
        fs::write(folder.path().join("20-mesh.conflist"), plugins).expect("is written");
        let finding = meshes(folder.path());
        assert_eq!(finding.verdict, Verdict::Warning);
        assert_eq!(finding.found, "configured: Istio, Linkerd");
    }
}
