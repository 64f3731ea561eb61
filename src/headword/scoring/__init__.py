"""From cosines to answers: probabilities, centres, a collection at once, familiarity, explanations."""
