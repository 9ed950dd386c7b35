//! Which 4 KiB blocks of a disk are private.

/// One bit per block.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Vec<u64>,
    blocks: u64,
}

impl Bitmap {
    /// All blocks belong to the base.
    pub(super) fn new(blocks: u64) -> Self {
        // A disk of a size that fits no memory fails to be opened long before this.
        let words = usize::try_from(blocks.div_ceil(64)).unwrap_or(usize::MAX);
        Self {
            words: vec![0; words],
            blocks,
        }
    }

    pub(super) fn get(&self, block: u64) -> bool {
        self.words
            .get((block / 64) as usize)
            .is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Marks `count` blocks from `first` on.
    pub(super) fn set(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count).min(self.blocks);
        let mut block = first;
        while block < end {
            let bit = block % 64;
            let here = (64 - bit).min(end - block);
            let mask = (u64::MAX >> (64 - here)) << bit;
            self.words[(block / 64) as usize] |= mask;
            block += here;
        }
    }

    /// How many blocks from `first` on, at most `limit`, are like the first.
    pub(super) fn run(&self, first: u64, limit: u64) -> u64 {
        let private = self.get(first);
        let uniform = if private { u64::MAX } else { 0 };
        let mut length = 0;
        while length < limit {
            let block = first + length;
            let aligned = block.is_multiple_of(64) && limit - length >= 64;
            if aligned && self.words.get((block / 64) as usize) == Some(&uniform) {
                length += 64;
            } else if self.get(block) == private {
                length += 1;
            } else {
                break;
            }
        }
        length
    }

    /// Runs of private blocks as (first, count), in order.
    pub(super) fn private_runs(&self) -> Vec<(u64, u64)> {
        let mut runs = Vec::new();
        let mut block = 0;
        while block < self.blocks {
            let length = self.run(block, self.blocks - block);
            if self.get(block) {
                runs.push((block, length));
            }
            block += length;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_those_of_a_list_of_bits(
            blocks in 1..400_u64,
            ranges in proptest::collection::vec((0..450_u64, 0..200_u64), 0..5),
            (first, limit) in (0..400_u64, 0..400_u64),
        ) {
            let mut bitmap = Bitmap::new(blocks);
            let mut model = vec![false; blocks as usize];
            for (first, count) in ranges {
                bitmap.set(first, count);
                model.iter_mut().skip(first as usize).take(count as usize).for_each(|b| *b = true);
            }
            for (block, &private) in (0..).zip(&model) {
                prop_assert_eq!(bitmap.get(block), private);
            }
            let first = first % blocks;
            let limit = limit.min(blocks - first);
            let rest = &model[first as usize..(first + limit) as usize];
            let run = rest.iter().take_while(|&&private| private == model[first as usize]).count();
            prop_assert_eq!(bitmap.run(first, limit), run as u64);

            let mut listed = vec![false; blocks as usize];
            for (first, count) in bitmap.private_runs() {
                listed[first as usize..(first + count) as usize].fill(true);
            }
            prop_assert_eq!(listed, model);
        }
    }
}
