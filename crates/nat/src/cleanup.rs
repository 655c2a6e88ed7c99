//! Takes our table away.

use streamvs_table::Family;

use crate::Error;
use crate::layout::{self, TABLE};
use crate::nft::Nft;

/// Removes our table of both families, whatever version made it, and nothing else. Idempotent.
/// Returns what it removed, as in `table ip streamvs-nat`. Established flows go on as long as
/// something else keeps translation loaded.
///
/// # Errors
/// `nft` is not installed, so that nothing can be found, or failed.
pub async fn cleanup() -> Result<Vec<String>, Error> {
    let nft = Nft::locate()?;
    let mut removed = Vec::new();
    let tables = match nft.tables().await {
        Ok(tables) => tables,
        // A kernel without nf_tables has no table of ours.
        Err(Error::Failed { .. } | Error::NoNftables { .. }) => return Ok(removed),
        Err(error) => return Err(error),
    };
    for family in Family::BOTH {
        let table = format!("table {} {TABLE}", layout::word(family));
        if tables.contains(&table) {
            nft.commit(&format!("delete {table}\n")).await?;
            removed.push(table);
        }
    }
    Ok(removed)
}
