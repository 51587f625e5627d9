"""From raw interactions to candidate tables: filtering, histories, splits, negatives."""
