"""What a policy's replies are worth: the judge, a second opinion, held-out prompts, comparisons with intervals."""
