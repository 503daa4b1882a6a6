"""Tables of several trainings or systems in the paper's layout: means, intervals, tests, and how they are written."""
