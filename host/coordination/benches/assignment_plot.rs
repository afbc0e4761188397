//! The picture in `docs/strategies.md`: balance and moves of each strategy while a fleet grows from 1 worker to 100 and shrinks again.

use super::{assign, heavy_tail, imbalance, kept, moved, partitions, strategies};
use parti_coordination::Partition;
use std::fmt::Write as _;
use std::path::Path;

/// The largest fleet.
const MOST: usize = 100;
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 70.0;
const COLOURS: [&str; 3] = ["#1f6fb4", "#d9601a", "#2f9248"];

/// One strategy on its way: for each step what it carries at most, over the mean, and what has moved, over the ideal.
struct Way {
    balance: Vec<f64>,
    moves: Vec<f64>,
}

/// A panel of the picture.
struct Panel<'a> {
    title: &'a str,
    column: f64,
    row: f64,
    /// The largest value that is shown; what is above is drawn at the edge.
    most: f64,
    ticks: &'a [f64],
}

/// Sizes of the fleet, one per step.
fn sizes() -> impl Iterator<Item = usize> {
    (1..=MOST).chain((1..MOST).rev())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn way(strategy: &dyn parti_coordination::strategy::Strategy, list: &[Partition]) -> Way {
    let mut before = vec![0; list.len()];
    let mut from = 1;
    let mut way = Way { balance: Vec::new(), moves: Vec::new() };
    for to in sizes() {
        let after = assign(strategy, to, list, &kept(&before, to));
        way.balance.push(imbalance(&after, list, to).0);
        if to != from {
            way.moves.push(moved(&before, &after, from, to).0 * from.max(to) as f64 / 100.0);
        }
        (before, from) = (after, to);
    }
    way
}

impl Panel<'_> {
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    fn x(&self, step: usize, steps: usize) -> f64 {
        LEFT + self.column * (WIDTH + 70.0) + step as f64 * WIDTH / (steps - 1) as f64
    }

    fn y(&self, value: f64) -> f64 {
        TOP + self.row * (HEIGHT + 70.0) + HEIGHT * (1.0 - value.min(self.most) / self.most)
    }

    fn frame(&self, svg: &mut String) {
        let (left, right) = (self.x(0, 2), self.x(1, 2));
        let _ =
            writeln!(svg, "<text x='{left}' y='{}' font-weight='bold'>{}</text>", self.y(self.most) - 10.0, self.title);
        for tick in self.ticks {
            let y = self.y(*tick);
            let _ = writeln!(svg, "<line x1='{left}' x2='{right}' y1='{y:.1}' y2='{y:.1}' stroke='#ddd'/>");
            let _ = writeln!(svg, "<text x='{}' y='{:.1}' text-anchor='end'>{tick}</text>", left - 6.0, y + 4.0);
        }
        for (at, label) in [(0, "1"), (1, "50"), (2, "100"), (3, "50"), (4, "1 worker")] {
            let (x, y) = (self.x(at, 5), self.y(0.0) + 16.0);
            let _ = writeln!(svg, "<text x='{x:.1}' y='{y:.1}' text-anchor='middle'>{label}</text>");
        }
    }

    fn line(&self, svg: &mut String, values: &[f64], colour: &str) {
        let point = |(step, value): (usize, &f64)| format!("{:.1},{:.1}", self.x(step, values.len()), self.y(*value));
        let points: Vec<String> = values.iter().enumerate().map(point).collect();
        let _ = writeln!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='1.6' stroke-opacity='0.85'/>",
            points.join(" ")
        );
    }
}

/// Draws the picture into this file.
pub(super) fn draw(file: &Path) -> std::io::Result<()> {
    let mut svg = String::from(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1010 600' font-family='sans-serif' font-size='12'>\n\
         <rect width='1010' height='600' fill='white'/>\n",
    );
    for ((at, (name, _)), colour) in strategies().iter().enumerate().zip(COLOURS) {
        let x = [60, 200, 400].get(at).copied().unwrap_or_default();
        let _ = writeln!(svg, "<rect x='{x}' y='18' width='22' height='4' fill='{colour}'/>");
        let _ = writeln!(svg, "<text x='{}' y='25'>{name}</text>", x + 28);
    }
    let _ = writeln!(svg, "<text x='520' y='25'>what is above an axis is drawn at its edge</text>");
    let lists = [
        (0.0, "3,000 partitions of equal weight", partitions(3000, |_| 100)),
        (1.0, "3,000 partitions, 150 of them heavy", partitions(3000, heavy_tail)),
    ];
    for (column, what, list) in lists {
        let balance = format!("largest load / mean: {what}");
        let balance = Panel { title: &balance, column, row: 0.0, most: 2.0, ticks: &[0.0, 0.5, 1.0, 1.5, 2.0] };
        let moves = "partitions moved by each step / the ideal";
        let moves = Panel { title: moves, column, row: 1.0, most: 4.0, ticks: &[0.0, 1.0, 2.0, 3.0, 4.0] };
        balance.frame(&mut svg);
        moves.frame(&mut svg);
        for ((_, strategy), colour) in strategies().iter().zip(COLOURS) {
            let way = way(&**strategy, &list);
            balance.line(&mut svg, &way.balance, colour);
            moves.line(&mut svg, &way.moves, colour);
        }
    }
    svg.push_str("</svg>\n");
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, svg)
}
