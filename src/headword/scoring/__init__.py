"""From cosines to answers.

probabilities.py  scales, none of these, many labels
centring.py       the mean of a collection, and the running one
transductive.py   labels for a whole collection at once
familiarity.py    how far words are from what a mapping has seen
explain.py        which rows an answer comes from
"""
