"""Training: one state that holds all that resumes, one loop, and what it runs on."""
