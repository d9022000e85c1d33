//! Owns the view of the pairs of hosts that were tested.

use std::collections::HashSet;

use serde::Serialize;

use crate::nccl::pairs::{Matrix, Outliers};
use crate::text::size;

/// The pairs of hosts that were tested.
#[derive(Serialize)]
pub(crate) struct PairsView {
    sentence: String,
    scope: String,
    size: String,
    hosts: Vec<HostView>,
    /// `None` where there are too many hosts.
    square: Option<Square>,
}

#[derive(Serialize)]
struct Square {
    numbers: Vec<usize>,
    rows: Vec<RowView>,
}

#[derive(Serialize)]
struct HostView {
    class: &'static str,
    number: usize,
    address: String,
    name: String,
    figures: [String; 4],
    remark: String,
}

#[derive(Serialize)]
struct RowView {
    number: usize,
    cells: Vec<String>,
}

pub(crate) fn view(matrix: &Matrix) -> PairsView {
    let named: HashSet<usize> = match &matrix.found {
        Outliers::Hosts(named) => named.iter().copied().collect(),
        Outliers::Ways | Outliers::Alike => HashSet::new(),
    };
    let hosts = matrix.hosts.iter().enumerate().map(|(number, host)| {
        let [median, lowest, highest] = [host.median, host.lowest, host.highest].map(|figure| format!("{figure:.2}"));
        HostView {
            class: if named.contains(&number) { "bad" } else { "none" },
            number,
            address: host.address.clone(),
            name: host.name.clone(),
            figures: [host.pairs.to_string(), median, lowest, highest],
            remark: host.remark(),
        }
    });
    let cells = matrix.cells();
    let numbers: Vec<usize> = (0..cells.len()).collect();
    let rows: Vec<_> = cells.into_iter().enumerate().map(|(number, cells)| RowView { number, cells }).collect();
    PairsView {
        sentence: matrix.sentence(),
        scope: matrix.scope(),
        size: size(matrix.size),
        hosts: hosts.collect(),
        square: (!rows.is_empty()).then_some(Square { numbers, rows }),
    }
}
