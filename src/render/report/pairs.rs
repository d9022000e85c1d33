//! Owns the view of the pairs of hosts that were tested. Knows nothing of what their bandwidths mean.

use serde::Serialize;

use crate::cluster::pairs::{Found, Matrix};
use crate::nccl::size;

/// The pairs of hosts that were tested.
#[derive(Serialize)]
pub(super) struct View {
    sentence: String,
    scope: String,
    size: String,
    hosts: Vec<HostView>,
    /// One, or none where there are too many.
    squares: Vec<Square>,
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

pub(super) fn view(matrix: &Matrix) -> View {
    let named: &[usize] = if let Found::Hosts(named) = &matrix.found { named } else { &[] };
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
    View {
        sentence: matrix.sentence(),
        scope: matrix.scope(),
        size: size(matrix.size),
        hosts: hosts.collect(),
        squares: if rows.is_empty() { Vec::new() } else { vec![Square { numbers, rows }] },
    }
}
