"""Ray: sessions, training, pools of cases. The only package that imports ray."""
