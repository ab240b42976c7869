"""One benchmark: the planner's choices over 24 links and two edges, predicted and live."""
