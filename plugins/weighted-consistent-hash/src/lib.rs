//! The host's strategy `weightedConsistentHash` as a component: the same code, and the same options as its configuration.

use parti_coordination::strategy::WeightedConsistentHash as BuiltIn;
use parti_guest::{Error, Request, Strategy, config};

struct WeightedConsistentHash;

impl Strategy for WeightedConsistentHash {
    fn assign(request: &Request) -> Result<Vec<u32>, Error> {
        built_in::answer(&config::parse::<BuiltIn>()?, request)
    }
}

parti_guest::export!(WeightedConsistentHash as strategy);

#[cfg(test)]
mod tests {
    use super::*;
    use parti_guest::testing;

    #[test]
    fn every_worker_gets_as_many() {
        let fleet = testing::strategy().worker("worker-0", []).worker("worker-1", []).worker("worker-2", []);
        let owners = fleet.partitions((0..30).map(|n| format!("p.{n}"))).assign::<WeightedConsistentHash>().unwrap();
        for worker in ["worker-0", "worker-1", "worker-2"] {
            assert_eq!(owners.iter().filter(|owner| *owner == worker).count(), 10, "{owners:?}");
        }
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused() {
        let fleet = testing::strategy().worker("worker-0", []).partitions(["p"]);
        assert!(
            fleet
                .config(parti_guest::serde_json::json!({"virtualNode": 10}))
                .assign::<WeightedConsistentHash>()
                .is_err()
        );
    }
}
