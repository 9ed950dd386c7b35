//! Gauges: what the supervisor knows at the moment it is asked.

use prometheus::IntGaugeVec;

use super::{Metrics, bound::value};
use crate::supervisor::state::{PoolView, StateView, WorkerView};

impl Metrics {
    /// Takes all gauges from `view`. What is there no more loses its series.
    pub(super) fn show(&self, view: &StateView, lacking: &[String]) {
        single(&self.own.ready).set(i64::from(lacking.is_empty()));
        single(&self.own.draining).set(i64::from(view.draining));
        self.own.protocol.reset();
        if let Some(version) = &view.runner_version {
            let label = [value(version)];
            self.own.protocol.with_label_values(&label).set(1);
        }
        if let Some(left) = view.rate_limit {
            single(&self.github.limit).set(saturated(left.limit));
            single(&self.github.remaining).set(saturated(left.remaining));
            let reset = left.reset.as_second() as f64;
            self.github.reset.with_label_values::<&str>(&[]).set(reset);
        }
        self.show_pools(&view.pools);
        self.show_sandboxes(&view.pools, &view.workers);
    }

    fn show_pools(&self, pools: &[PoolView]) {
        self.pools.reset();
        self.work.workers.reset();
        for pool in pools {
            let name = value(&pool.name);
            let owner = &self.owner;
            let info = [
                name.clone(),
                value(&pool.mode),
                value(&pool.image),
                owner.repository.clone(),
                owner.organization.clone(),
                owner.enterprise.clone(),
            ];
            self.pools.info.with_label_values(&info).set(1);
            let set = |gauge: &IntGaugeVec, number: u32| {
                gauge.with_label_values(&[&name]).set(i64::from(number));
            };
            set(
                &self.pools.ready,
                u32::from(pool.ready && pool.error.is_none()),
            );
            set(&self.pools.capacity, pool.capacity);
            set(&self.pools.idle_wanted, pool.min_idle);
            set(&self.pools.desired, pool.desired);
            if let Some(created) = pool.snapshot_created {
                let gauge = self.pools.snapshot_created.with_label_values(&[&name]);
                gauge.set(created.as_second() as f64);
            }
            if let Some(assigned) = pool.assigned {
                set(&self.pools.assigned, assigned);
            }
            for (state, number) in [
                ("starting", pool.starting),
                ("idle", pool.idle),
                ("busy", pool.busy),
                ("stopping", pool.stopping),
            ] {
                let gauge = self.work.workers.with_label_values(&[name.as_str(), state]);
                gauge.set(i64::from(number));
            }
            self.begin_at_zero(&name);
        }
    }

    fn show_sandboxes(&self, pools: &[PoolView], workers: &[WorkerView]) {
        self.work.sandboxes.reset();
        let names = pools.iter().map(|pool| &pool.name);
        let of_workers = workers.iter().map(|worker| &worker.pool);
        for name in names.chain(of_workers) {
            let there = |w: &&WorkerView| w.pool == *name && w.vmm.is_some();
            let number = workers.iter().filter(there).count();
            let gauge = self.work.sandboxes.with_label_values(&[value(name)]);
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
}

pub(super) fn single(gauge: &IntGaugeVec) -> prometheus::IntGauge {
    gauge.with_label_values::<&str>(&[])
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
