//! [`Topology`] and [`Topology::place`]: which processors a team should use, and how many.
//!
//! The rule: one thread for each core, all in one memory node. Two threads of a core share its arithmetic units and its first
//! caches, which one thread of a product fills; and a team over two memory nodes waits in every parallel region for the part
//! that reads the other node's memory. More threads, where they are asked for, go to cores of other nodes before they go to second
//! threads of a core.
//!
//! Must not know: threads, flags. Invariant: pure; what the system does not tell counts as one core for each processor, and
//! one node.

use super::survey::numbers;
use std::collections::{BTreeMap, BTreeSet};

/// A logical processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Processor {
    id: usize,
    /// Socket, and core within it.
    core: (usize, usize),
    /// Memory node.
    node: usize,
}

/// The processors that this process may run on, and how they share cores and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    processors: Vec<Processor>,
}

/// Where a team belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Threads, at least 1, as many as the rule says.
    pub threads: usize,
    /// All allowed processors in the order in which threads should use them, each core of a node before the next node's, and
    /// second threads of cores last.
    pub order: Vec<usize>,
    /// Cores of each memory node that the process may use, the best node first: (node, cores).
    pub nodes: Vec<(usize, usize)>,
}

impl Topology {
    /// Of the processors `allowed`, from what `read` gives for a path below `/sys`.
    pub fn from_files(allowed: &[usize], read: &dyn Fn(&str) -> Option<String>) -> Self {
        let nodes = read("/sys/devices/system/node/online").unwrap_or_default();
        let node_of: BTreeMap<usize, usize> = numbers(nodes.trim())
            .into_iter()
            .flat_map(|node| {
                let list = read(&format!("/sys/devices/system/node/node{node}/cpulist"));
                let list = list.map(|text| numbers(text.trim())).unwrap_or_default();
                list.into_iter().map(move |processor| (processor, node))
            })
            .collect();
        let number = |id: usize, name: &str| -> Option<usize> {
            let file = format!("/sys/devices/system/cpu/cpu{id}/topology/{name}");
            read(&file)?.trim().parse().ok()
        };
        let processor = |&id: &usize| {
            let core = number(id, "physical_package_id").zip(number(id, "core_id"));
            Processor {
                id,
                // No socket has so many cores: a processor that says nothing is one of its own.
                core: core.unwrap_or((usize::MAX, id)),
                node: node_of.get(&id).copied().unwrap_or(0),
            }
        };
        let unique: BTreeSet<usize> = allowed.iter().copied().collect();
        Self {
            processors: unique.iter().map(processor).collect(),
        }
    }

    /// Where a team belongs that may use the time of `most` processors.
    pub fn place(&self, most: usize) -> Placement {
        // How many processors of its core come before each one.
        let mut seen = BTreeMap::<(usize, usize), usize>::new();
        let ranked: Vec<(usize, Processor)> = self
            .processors
            .iter()
            .map(|&processor| {
                let before = seen.entry(processor.core).or_default();
                *before += 1;
                (*before - 1, processor)
            })
            .collect();
        let mut cores = BTreeMap::<usize, usize>::new();
        for (_, processor) in ranked.iter().filter(|(rank, _)| *rank == 0) {
            *cores.entry(processor.node).or_default() += 1;
        }
        let mut nodes: Vec<(usize, usize)> = cores.into_iter().collect();
        // Equal ones stay in the order of their numbers.
        nodes.sort_by_key(|(_, cores)| std::cmp::Reverse(*cores));
        let place_of = |node: usize| nodes.iter().position(|(n, _)| *n == node);
        let mut order: Vec<(usize, Option<usize>, usize)> = ranked
            .iter()
            .map(|(rank, processor)| (*rank, place_of(processor.node), processor.id))
            .collect();
        order.sort_unstable();
        let best = nodes.first().map_or(1, |(_, cores)| *cores);
        Placement {
            threads: best.min(most).max(1),
            order: order.into_iter().map(|(_, _, id)| id).collect(),
            nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine: for each processor its socket, core and node.
    fn machine(processors: &[(usize, usize, usize)], allowed: &[usize]) -> Topology {
        let mut files = BTreeMap::new();
        let mut nodes = BTreeMap::<usize, Vec<String>>::new();
        for (id, (socket, core, node)) in processors.iter().enumerate() {
            let at = format!("/sys/devices/system/cpu/cpu{id}/topology");
            files.insert(format!("{at}/physical_package_id"), format!("{socket}\n"));
            files.insert(format!("{at}/core_id"), format!("{core}\n"));
            nodes.entry(*node).or_default().push(id.to_string());
        }
        let online: Vec<String> = nodes.keys().map(usize::to_string).collect();
        files.insert(
            "/sys/devices/system/node/online".to_owned(),
            online.join(","),
        );
        for (node, ids) in nodes {
            files.insert(
                format!("/sys/devices/system/node/node{node}/cpulist"),
                format!("{}\n", ids.join(",")),
            );
        }
        Topology::from_files(allowed, &|path| files.get(path).cloned())
    }

    #[track_caller]
    fn check(topology: &Topology, most: usize, threads: usize, order: &[usize]) {
        let placed = topology.place(most);
        assert_eq!((placed.threads, placed.order.as_slice()), (threads, order));
    }

    #[test]
    fn two_plain_cores_are_two_threads() {
        let two = machine(&[(0, 0, 0), (0, 1, 0)], &[0, 1]);
        check(&two, 2, 2, &[0, 1]);
        check(&two, 1, 1, &[0, 1]);
        check(&two, 0, 1, &[0, 1]);
    }

    #[test]
    fn second_threads_of_cores_come_last() {
        // As Linux numbers them: all cores, then their second threads.
        let halves = [
            (0, 0, 0),
            (0, 1, 0),
            (0, 2, 0),
            (0, 0, 0),
            (0, 1, 0),
            (0, 2, 0),
        ];
        let all: Vec<usize> = (0..6).collect();
        check(&machine(&halves, &all), 6, 3, &[0, 1, 2, 3, 4, 5]);
        // As clouds often number them: both threads of a core side by side.
        let pairs = [
            (0, 0, 0),
            (0, 0, 0),
            (0, 1, 0),
            (0, 1, 0),
            (0, 2, 0),
            (0, 2, 0),
        ];
        check(&machine(&pairs, &all), 6, 3, &[0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn a_team_stays_in_one_node_and_more_threads_go_to_cores_of_the_other() {
        // Two sockets of two cores with two threads; the second threads are 4 to 7.
        let sockets = [
            (0, 0, 0),
            (0, 1, 0),
            (1, 0, 1),
            (1, 1, 1),
            (0, 0, 0),
            (0, 1, 0),
            (1, 0, 1),
            (1, 1, 1),
        ];
        let all: Vec<usize> = (0..8).collect();
        let placed = machine(&sockets, &all).place(8);
        assert_eq!(placed.threads, 2);
        assert_eq!(placed.order, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(placed.nodes, [(0, 2), (1, 2)]);
    }

    #[test]
    fn of_a_part_of_the_machine_the_node_with_most_cores_is_taken() {
        // Two nodes of four cores; the container may use one core of the first and three of the second.
        let nodes: Vec<_> = (0..8).map(|id| (id / 4, id % 4, id / 4)).collect();
        let part = machine(&nodes, &[3, 5, 6, 7]);
        check(&part, 4, 3, &[5, 6, 7, 3]);
        assert_eq!(part.place(4).nodes, [(1, 3), (0, 1)]);
        // A quota below that wins.
        check(&part, 2, 2, &[5, 6, 7, 3]);
        // Only a second thread of a core is allowed: it is the core's first here.
        let pair = machine(&[(0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 0)], &[1, 2, 3]);
        check(&pair, 3, 2, &[1, 2, 3]);
    }

    #[test]
    fn several_nodes_of_one_socket_are_nodes() {
        // As a server processor that is divided in four: cores are numbered through the socket.
        let four: Vec<_> = (0..8).map(|id| (0, id, id / 2)).collect();
        let all: Vec<usize> = (0..8).collect();
        check(&machine(&four, &all), 8, 2, &all);
    }

    #[test]
    fn what_is_not_told_counts_as_plain_cores() {
        let none = Topology::from_files(&[4, 2, 2], &|_| None);
        check(&none, 3, 2, &[2, 4]);
        check(&Topology::from_files(&[], &|_| None), 3, 1, &[]);
    }
}
