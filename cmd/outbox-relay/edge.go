package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// edge is what stands between the network and the handlers.
type edge struct {
	hosts   []string       // names by which the server may be called; "." in front: any one label before it; empty: all names
	proxies []netip.Prefix // whose X-Forwarded-For is believed
}

// wrap refuses requests for other hosts (a page on a name that was made to point here has the right Origin for it), and puts the client's
// address into RemoteAddr.
func (e edge) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.allows(r.Host) {
			http.Error(w, "Host not allowed: see ALLOWED_HOSTS", http.StatusForbidden)
			return
		}
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
			own := peer.Addr().Unmap()
			if client := e.client(own, r.Header.Values("X-Forwarded-For")); client != own {
				r.RemoteAddr = netip.AddrPortFrom(client, 0).String()
			}
		}
		next.ServeHTTP(w, r)
	})
}

// allows reports whether a request's Host is one of ours, whatever its port.
func (e edge) allows(host string) bool {
	if len(e.hosts) == 0 {
		return true
	}
	name := strings.ToLower((&url.URL{Host: host}).Hostname())
	name = strings.TrimSuffix(name, ".")
	return slices.ContainsFunc(e.hosts, func(h string) bool {
		if !strings.HasPrefix(h, ".") {
			return name == h
		}
		label, ok := strings.CutSuffix(name, h)
		return ok && label != "" && !strings.Contains(label, ".")
	})
}

// client returns who sent a request: the nearest address, seen from here, that isn't a trusted proxy's. What stands left of it in
// X-Forwarded-For is whatever the client wrote.
func (e edge) client(peer netip.Addr, forwarded []string) netip.Addr {
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0 && e.trusts(peer); i-- {
		hop, ok := parseAddr(hops[i])
		if !ok {
			break
		}
		peer = hop
	}
	return peer
}

func (e edge) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(e.proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// parseAddr reads an address with or without a port, as proxies write them.
func parseAddr(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return a.WithZone("").Unmap(), err == nil
}

// listOf splits a comma-separated setting.
func listOf(value string) (list []string) {
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// namesNothing is the error of a list without an item: taken for an empty setting, it would allow what nobody meant to allow.
func namesNothing(value string) error {
	return fmt.Errorf("%q names nothing: leave the setting empty, or name one", value)
}

func setHosts(c *config, value string) error {
	list := listOf(value)
	if len(list) == 0 {
		return namesNothing(value)
	}
	for _, item := range list {
		name, wild := strings.CutPrefix(strings.ToLower(item), "*.")
		if strings.HasPrefix(name, "[") || strings.Count(name, ":") > 1 { // an IPv6 address
			a, ok := parseAddr(name)
			if !ok || wild {
				return fmt.Errorf("%q is no host: want a name or an address, without scheme and port", item)
			}
			name = a.String()
		} else if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || strings.HasPrefix(name, ".") {
			return fmt.Errorf("%q is no host: want a name or an address, without scheme and port; only one leading label may be *", item)
		}
		if wild {
			name = "." + name
		}
		c.edge.hosts = append(c.edge.hosts, strings.TrimSuffix(name, "."))
	}
	return nil
}

func setProxies(c *config, value string) error {
	list := listOf(value)
	if len(list) == 0 {
		return namesNothing(value)
	}
	for _, item := range list {
		p, err := netip.ParsePrefix(item)
		if err != nil {
			a, err := netip.ParseAddr(item)
			if err != nil {
				return fmt.Errorf("%q is neither a network nor an address: want 10.0.0.0/8 or 192.0.2.1", item)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Bits() == 0 {
			return errors.New("a network of all addresses trusts every client to name any address: want that of your proxies")
		}
		c.edge.proxies = append(c.edge.proxies, p.Masked())
	}
	return nil
}
