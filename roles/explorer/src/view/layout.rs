//! Where the boxes of a picture stand: layers from left to right, few crossings, lines that go around boxes.

use std::collections::BTreeMap;

/// Between two boxes, and between a box and a line.
const GAP: f64 = 18.0;
/// Of a line that passes through a layer.
const LINE: f64 = 8.0;
/// Rounds in which everything moves towards what it is connected to.
const ROUNDS: usize = 24;

/// A box, or a line's place within a layer that it passes through.
#[derive(Debug)]
struct Item {
    layer: usize,
    height: f64,
    middle: f64,
    near: Vec<usize>,
}

/// A finished plan.
#[derive(Debug)]
pub struct Plan {
    items: Vec<Item>,
    /// Of each line, its items in the layers between its ends.
    ways: Vec<Vec<usize>>,
}

impl Plan {
    /// Places boxes, given by their layers, that are connected by lines from the left to the right one.
    pub fn new(layers: &[usize], lines: &[(usize, usize)], height: f64) -> Self {
        let boxes = layers.iter().map(|layer| Item {
            layer: *layer,
            height,
            middle: 0.0,
            near: Vec::new(),
        });
        let mut plan = Self { items: boxes.collect(), ways: Vec::new() };
        // Lines from one box run together for as long as they can.
        let mut shared = BTreeMap::<(usize, usize), usize>::new();
        for (from, to) in lines {
            let mut way = Vec::new();
            let mut last = *from;
            for layer in layers[*from] + 1..layers[*to] {
                let next = *shared.entry((*from, layer)).or_insert(plan.items.len());
                if next == plan.items.len() {
                    plan.items.push(Item { layer, height: LINE, middle: 0.0, near: Vec::new() });
                }
                plan.connect(last, next);
                way.push(next);
                last = next;
            }
            plan.connect(last, *to);
            plan.ways.push(way);
        }
        plan.arrange();
        plan
    }

    /// The height that it takes.
    pub fn height(&self) -> f64 {
        self.items.iter().map(|item| item.middle + item.height / 2.0).fold(0.0, f64::max)
    }

    /// The middle of a box, from the top.
    pub fn middle(&self, of: usize) -> f64 {
        self.items[of].middle
    }

    /// The layers that a line passes through between its ends, and how far from the top.
    pub fn way(&self, line: usize) -> impl Iterator<Item = (usize, f64)> {
        self.ways[line].iter().map(|item| (self.items[*item].layer, self.items[*item].middle))
    }

    fn connect(&mut self, a: usize, b: usize) {
        if !self.items[a].near.contains(&b) {
            self.items[a].near.push(b);
            self.items[b].near.push(a);
        }
    }

    fn arrange(&mut self) {
        let mut layers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, item) in self.items.iter().enumerate() {
            layers.entry(item.layer).or_default().push(at);
        }
        let mut layers: Vec<Vec<usize>> = layers.into_values().collect();
        for layer in &layers {
            self.stack(layer, None);
        }
        for round in 0..ROUNDS {
            // From the left and from the right in turn.
            let order: Vec<usize> = match round % 2 {
                0 => (0..layers.len()).collect(),
                _ => (0..layers.len()).rev().collect(),
            };
            for layer in order {
                let wanted: BTreeMap<usize, f64> =
                    layers[layer].iter().map(|item| (*item, self.wanted(*item))).collect();
                // The order is found in the first half, and then kept.
                if round < ROUNDS / 2 {
                    layers[layer].sort_by(|a, b| wanted[a].total_cmp(&wanted[b]));
                }
                self.stack(&layers[layer], Some(&wanted));
            }
        }
        let top =
            self.items.iter().map(|item| item.middle - item.height / 2.0).fold(f64::MAX, f64::min);
        for item in &mut self.items {
            item.middle -= top;
        }
    }

    /// The mean of what it is connected to.
    fn wanted(&self, item: usize) -> f64 {
        let near = &self.items[item].near;
        match near.is_empty() {
            true => self.items[item].middle,
            false => {
                near.iter().map(|other| self.items[*other].middle).sum::<f64>() / near.len() as f64
            }
        }
    }

    /// Puts the items of a layer below one another, as near to where they want to be as they fit: those that touch
    /// move together, by the mean of what they want.
    fn stack(&mut self, layer: &[usize], wanted: Option<&BTreeMap<usize, f64>>) {
        // Blocks of touching items: their first middle, and their items with the distance from that.
        let mut blocks: Vec<(f64, Vec<(usize, f64)>)> = Vec::new();
        for item in layer {
            let wish = wanted.map_or(0.0, |wanted| wanted[item]);
            blocks.push((wish, vec![(*item, 0.0)]));
            while let [.., (above, upper), (below, lower)] = blocks.as_slice() {
                let (last, offset) = upper[upper.len() - 1];
                let apart = (self.items[last].height + self.items[lower[0].0].height) / 2.0 + GAP;
                if above + offset + apart <= *below {
                    break;
                }
                let joined: Vec<(usize, f64)> = upper
                    .iter()
                    .copied()
                    .chain(lower.iter().map(|(item, more)| (*item, offset + apart + more)))
                    .collect();
                let wishes = joined
                    .iter()
                    .map(|(item, more)| wanted.map_or(0.0, |wanted| wanted[item]) - more);
                let start = wishes.sum::<f64>() / joined.len() as f64;
                blocks.truncate(blocks.len() - 2);
                blocks.push((start, joined));
            }
        }
        for (start, items) in blocks {
            for (item, more) in items {
                self.items[item].middle = start + more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_never_overlap_and_lines_go_around_them() {
        // Node, provider, pool, translator, three miners; two of them straight at the pool.
        let layers = [0, 1, 2, 3, 4, 4, 4];
        let lines = [(0, 1), (1, 2), (2, 3), (3, 4), (2, 5), (2, 6)];
        let plan = Plan::new(&layers, &lines, 88.0);
        for (a, item) in plan.items.iter().enumerate() {
            assert!(item.middle - item.height / 2.0 >= -0.01 && item.middle <= plan.height());
            for other in &plan.items[a + 1..] {
                let apart = (item.middle - other.middle).abs() + 0.01;
                assert!(
                    item.layer != other.layer || apart >= (item.height + other.height) / 2.0 + GAP
                );
            }
        }
        assert_eq!(plan.way(4).count(), 1, "past the translator");
        assert_eq!(plan.way(3).count(), 0);
        assert!(plan.height() < 400.0);
    }

    #[test]
    fn nothing_and_one() {
        assert_eq!(Plan::new(&[], &[], 10.0).height(), 0.0);
        assert_eq!(Plan::new(&[0], &[], 10.0).height(), 10.0);
    }
}
