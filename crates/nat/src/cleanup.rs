//! Takes our table away.

use streamvs_table::Family;

use crate::Error;
use crate::layout::{self, TABLE};
use crate::nft::Nft;

/// Removes our table of both families, whatever version made it, and nothing else. Idempotent.
/// Returns what it removed, as in `table ip streamvs-nat`. Established flows go on as long as
/// something else keeps translation loaded.
///
/// Where `nft` is not installed nothing can be found, and a warning says so.
///
/// # Errors
/// `nft` failed.
pub async fn cleanup() -> Result<Vec<String>, Error> {
    let nft = match Nft::locate() {
        Ok(nft) => nft,
        Err(error) => {
            tracing::warn!(%error, "no nftables table was looked for");
            return Ok(Vec::new());
        }
    };
    let mut removed = Vec::new();
    let tables = match nft.tables().await {
        Ok(tables) => tables,
        // A kernel without nf_tables has no table of ours.
        Err(_) => return Ok(removed),
    };
    for family in Family::BOTH {
        let table = format!("table {} {TABLE}", layout::word(family));
        if tables.lines().any(|line| line == table) {
            nft.commit(&format!("delete {table}\n")).await?;
            removed.push(table);
        }
    }
    Ok(removed)
}
