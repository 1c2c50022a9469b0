//! Trees: an isolation forest (Liu, Ting and Zhou 2008) or a boosted ensemble.
//!
//! A tree is four arrays of one length. Node 0 is the root; `feature` -1 marks a leaf, whose `value` counts; an inner node goes
//! to `left` where its feature, in 32 bits, is at most `value`, else to `right`. A child stands behind its parent, so that
//! every walk ends. `isolation`: `value` of a leaf is its path length with c(n) added, the score 2^(-mean / `normaliser`).
//! `boosted`: the score is `base` plus the sum of the leaves, through 1 / (1 + e^-x) where `link` is `logistic`.

use serde::Deserialize;

use super::{
    NativeError, check_format, check_numbers, check_outputs, features::Features, narrow, refuse,
};
use crate::manifest::Manifest;

/// Most trees.
const TREES_MAX: usize = 10_000;
/// Most nodes of all trees: 40 MiB in memory.
const NODES_MAX: usize = 2 * 1024 * 1024;

/// The file as serde reads it, format 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    format: u32,
    rows: Vec<[usize; 2]>,
    kind: FileKind,
    #[serde(default)]
    normaliser: Option<f64>,
    #[serde(default)]
    base: Option<f64>,
    #[serde(default)]
    link: Option<Link>,
    trees: Vec<FileTree>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileKind {
    Isolation,
    Boosted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Link {
    Identity,
    Logistic,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTree {
    feature: Vec<i32>,
    left: Vec<u32>,
    right: Vec<u32>,
    value: Vec<f64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Forest {
    features: Features,
    trees: Vec<Vec<Node>>,
    combination: Combination,
}

#[derive(Debug, Clone, Copy)]
enum Combination {
    Isolation { normaliser: f64 },
    Boosted { base: f64, link: Link },
}

#[derive(Debug, Clone, Copy)]
enum Node {
    Leaf(f32),
    Inner {
        feature: u32,
        threshold: f32,
        left: u32,
        right: u32,
    },
}

impl Forest {
    pub(super) fn check(file: File, manifest: &Manifest) -> Result<Forest, NativeError> {
        check_format(file.format)?;
        check_outputs(manifest, &["score"])?;
        let features = Features::check(file.rows, manifest)?;
        let combination = match (file.kind, file.normaliser, file.base, file.link) {
            (FileKind::Isolation, Some(normaliser), None, None)
                if normaliser.is_finite() && normaliser > 0.0 =>
            {
                Combination::Isolation { normaliser }
            }
            (FileKind::Boosted, None, Some(base), Some(link)) if base.is_finite() => {
                Combination::Boosted { base, link }
            }
            (FileKind::Isolation, ..) => {
                return refuse(
                    "kind",
                    "`isolation` has the key `normaliser`, above 0, and neither `base` nor `link`",
                );
            }
            (FileKind::Boosted, ..) => {
                return refuse(
                    "kind",
                    "`boosted` has the keys `base` and `link`, and no `normaliser`",
                );
            }
        };
        let (found, nodes) = (
            file.trees.len(),
            file.trees
                .iter()
                .map(|tree| tree.feature.len())
                .sum::<usize>(),
        );
        if !(1..=TREES_MAX).contains(&found) || nodes > NODES_MAX {
            return refuse(
                "trees",
                format!(
                    "expected 1 to {TREES_MAX} trees of together at most {NODES_MAX} nodes, found {found} of {nodes}"
                ),
            );
        }
        let trees = file
            .trees
            .iter()
            .enumerate()
            .map(|(index, tree)| tree.check(&format!("trees[{index}]"), features.count()))
            .collect::<Result<_, _>>()?;
        Ok(Forest {
            features,
            trees,
            combination,
        })
    }

    pub(super) fn run(&self, window: &[f32]) -> Vec<f32> {
        let features: Vec<f32> = self.features.of(window).into_iter().map(narrow).collect();
        let leaves = self
            .trees
            .iter()
            .map(|tree| f64::from(leaf(tree, &features)));
        let sum: f64 = leaves.sum();
        let score = match self.combination {
            Combination::Isolation { normaliser } => {
                let count = f64::from(u32::try_from(self.trees.len()).unwrap_or(u32::MAX));
                (-sum / count / normaliser).exp2()
            }
            Combination::Boosted { base, link } => match link {
                Link::Identity => base + sum,
                Link::Logistic => 1.0 / (1.0 + (-base - sum).exp()),
            },
        };
        vec![narrow(score)]
    }
}

/// The value of the leaf that the features lead to.
fn leaf(tree: &[Node], features: &[f32]) -> f32 {
    let mut at = 0;
    loop {
        match tree[at] {
            Node::Leaf(value) => return value,
            Node::Inner {
                feature,
                threshold,
                left,
                right,
            } => {
                let goes_left = features[index(feature)] <= threshold;
                at = index(if goes_left { left } else { right });
            }
        }
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("an index of 32 bits fits")
}

impl FileTree {
    fn check(&self, key: &str, features: usize) -> Result<Vec<Node>, NativeError> {
        let length = self.feature.len();
        if length == 0 || self.left.len() != length || self.right.len() != length {
            return refuse(key, "expected four arrays of one length, at least 1");
        }
        check_numbers(&format!("{key}.value"), &self.value, length)?;
        (0..length).map(|at| self.node(key, at, features)).collect()
    }

    fn node(&self, key: &str, at: usize, features: usize) -> Result<Node, NativeError> {
        let value = narrow(self.value[at]);
        if !value.is_finite() {
            return refuse(
                format!("{key}.value[{at}]"),
                "expected a number that 32 bits can hold",
            );
        }
        let (feature, left, right) = (self.feature[at], self.left[at], self.right[at]);
        if feature == -1 {
            return Ok(Node::Leaf(value));
        }
        let feature = match u32::try_from(feature) {
            Ok(feature) if index(feature) < features => feature,
            _ => {
                return refuse(
                    format!("{key}.feature[{at}]"),
                    format!("expected -1 or 0 to {}, found {feature}", features - 1),
                );
            }
        };
        for (side, child) in [("left", left), ("right", right)] {
            if index(child) <= at || index(child) >= self.feature.len() {
                return refuse(
                    format!("{key}.{side}[{at}]"),
                    format!("expected a node behind {at}, found {child}"),
                );
            }
        }
        Ok(Node::Inner {
            feature,
            threshold: value,
            left,
            right,
        })
    }
}
