"""Training and adapting on a site's own scans."""
